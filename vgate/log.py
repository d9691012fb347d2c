"""Logging in one shape for all processes: a constant event phrase and named fields.

Standard ``logging`` underneath, so that the lines of granian and vLLM come out alike. Never log a
prompt, an answer or a key, and never a line per token.
"""

from __future__ import annotations

import logging
import os
import sys
import time
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
        logger = self._logger
        if logger.isEnabledFor(level):
            # What `logger.log` does, without looking through the stack for who called it.
            caught = sys.exc_info() if exc_info else None
            record = logging.LogRecord(logger.name, level, "", 0, event, (), caught)
            record.__dict__[_FIELDS] = fields
            logger.handle(record)


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

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        if second != self._second[0]:
            self._second = second, time.strftime("%H:%M:%S", time.localtime(second))
        clock = f"{self._second[1]}.{milliseconds:03}"
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
    # No line tells them (logging's how-to, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.11 doesn't have it
    logging.captureWarnings(capture=True)
