"""Logging in one format for all processes: a constant event phrase and named fields.

It goes through standard ``logging``, so the lines of granian and vLLM get the same format. Never
log a prompt, an answer or a key, and never a line per token.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

if TYPE_CHECKING:
    import asyncio

Level = Literal["debug", "info", "warning", "error", "critical"]

_FIELDS = "vgate_fields"

_encode = msgspec.json.Encoder(enc_hook=str).encode


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
        self._second = (0, "")

    def _time(self, created: float) -> str:
        """Return a time, to the millisecond."""
        second, milliseconds = divmod(int(created * 1000), 1000)
        if second != self._second[0]:
            self._second = second, self._second_as_text(second)
        return f"{self._second[1]}.{milliseconds:03}"

    def _second_as_text(self, second: int) -> str:
        raise NotImplementedError

    def _exception(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class JSONFormatter(_Formatter):
    """One JSON object in each line: ts, level, process, pid, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        fixed = {
            "ts": f"{self._time(record.created)}+00:00",
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": self._pid,
            "logger": record.name,
            "event": record.getMessage(),
        }
        # What every line has is never replaced by a field of the same name.
        line = fixed | record.__dict__.get(_FIELDS, {}) | fixed
        if exception := self._exception(record):
            line["exception"] = exception
        return _encode(line).decode()

    def _second_as_text(self, second: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class PlainFormatter(_Formatter):
    """A line for people: time, level, process, event, then ``name=value`` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        named: dict[str, Any] = record.__dict__.get(_FIELDS, {})
        fields = "".join([f" {name}={value}" for name, value in named.items()])
        if not fields.isprintable():
            fields = "".join([f" {name}={_plain(value)}" for name, value in named.items()])
        clock, level = self._time(record.created), record.levelname
        line = f"{clock} {level:<7} {self._process}  {record.getMessage()}{fields}"
        exception = self._exception(record)
        return f"{line}\n{exception}" if exception else line

    def _second_as_text(self, second: int) -> str:
        return time.strftime("%H:%M:%S", time.localtime(second))


class _LineHandler(logging.Handler):
    """Writes lines to a stream: each at once, or those of one turn of an event loop together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self._thread = 0

    def gather(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Have the lines of this thread wait until `call_soon` calls."""
        self._call_soon = call_soon
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; the caller holds the handler's lock."""
        try:
            self._waiting.append(self.format(record))
        except Exception:  # noqa: BLE001 - a line that can't be formatted must not end its event
            self.handleError(record)
        call_soon = self._call_soon
        if (
            call_soon is None
            # Errors may be a process's last words.
            or record.levelno >= logging.ERROR
            or threading.get_ident() != self._thread
        ):
            self.flush()
        elif len(self._waiting) == 1:
            call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait. Also called at the end of the process."""
        with self.lock or contextlib.nullcontext():
            waiting, self._waiting = self._waiting, []
            if waiting:
                # With nobody to read it there is nobody to report that to.
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write("\n".join(waiting) + "\n")
                    self._stream.flush()


def _plain(value: Any) -> str:
    """Return a field on one line, without control characters: some values come from clients."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def configure(process: str, *, level: Level, json_format: bool) -> None:
    """Send all of this process's logs to standard error in the configured shape."""
    handler = _LineHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process) if json_format else PlainFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # No line has them (logging's how-to, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.11 doesn't have it
    logging.captureWarnings(capture=True)


def gather_lines(loop: asyncio.AbstractEventLoop) -> None:
    """Write the lines that are logged in one turn of a loop together, at its end.

    Each write releases Python's lock, for which other threads wait, and that costs more than the
    line. A process that is killed loses the lines of its last turn.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, _LineHandler):
            handler.gather(loop.call_soon)
