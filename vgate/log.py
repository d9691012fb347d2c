"""Logging in one shape for all processes: a constant event phrase and named fields.

Standard ``logging`` underneath, so that the lines of granian and vLLM come out alike. Never log a
prompt, an answer or a key, and never a line per token.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Level = Literal["debug", "info", "warning", "error", "critical"]

_FIELDS = "vgate_fields"


class Log:
    """A named source of events.

    ``log.info("request finished", request_id=..., status=200)``: the phrase is constant, so that
    it can be searched and counted; everything that varies is a field.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Details for finding a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something that normally happens."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that an operator may want to look at."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that an operator must look at."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception being handled."""
        self._write(logging.ERROR, event, fields, exc_info=True)

    def _write(
        self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, exc_info=exc_info, extra={_FIELDS: fields})


class _Formatter(logging.Formatter):
    """Turns a record into one line; ``process`` is engine, frontend-1, launcher."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._pid = os.getpid()

    def _exception(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class JSONFormatter(_Formatter):
    """One JSON object a line: ts, level, process, pid, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        fixed = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": self._pid,
            "logger": record.name,
            "event": record.getMessage(),
        }
        # What every line has is never replaced by a field of the same name.
        line = fixed | getattr(record, _FIELDS, {}) | fixed
        if exception := self._exception(record):
            line["exception"] = exception
        return msgspec.json.encode(line, enc_hook=str).decode()


class PlainFormatter(_Formatter):
    """A line for people: time, level, process, event, then ``name=value`` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        clock = (
            datetime.fromtimestamp(record.created, None).astimezone().strftime("%H:%M:%S.%f")[:-3]
        )
        fields = "".join(f" {k}={_plain(v)}" for k, v in getattr(record, _FIELDS, {}).items())
        line = f"{clock} {record.levelname:<7} {self._process}  {record.getMessage()}{fields}"
        exception = self._exception(record)
        return f"{line}\n{exception}" if exception else line


def _plain(value: Any) -> str:
    """Return a field on one line, without control characters: some values come from clients."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def configure(process: str, *, level: Level, json_format: bool) -> None:
    """Send all of this process's logs to standard error in the configured shape."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process) if json_format else PlainFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
