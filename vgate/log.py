"""Logging in one format for all processes: a constant event phrase and named fields.

It uses standard ``logging``, so the lines of granian and vLLM get the same format. Never log a
prompt, an answer or a key, and never a line per token.
"""

import contextlib
import json
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
        """Log details for finding a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log something that an operator may want to look at."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log something that an operator must look at."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the traceback of the exception being handled."""
        self._write(logging.ERROR, event, fields, sys.exc_info())

    def _write(self, level: int, event: str, fields: dict[str, Any], caught: Any = None) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            record = logging.LogRecord(logger.name, level, "", 0, event, (), caught)
            record.__dict__[_FIELDS] = fields
            logger.handle(record)


class _Formatter(logging.Formatter):
    """Turns a record into one line; ``process`` is a name such as engine or frontend-1."""

    _date = "%H:%M:%S"

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._pid = os.getpid()
        self._second = (0, "")

    def _time(self, created: float) -> str:
        """Return a time, to the millisecond. The text of a second is made once."""
        second, milliseconds = divmod(int(created * 1000), 1000)
        if second != self._second[0]:
            self._second = second, time.strftime(self._date, self.converter(second))
        return f"{self._second[1]}.{milliseconds:03}"


class JSONFormatter(_Formatter):
    """One JSON object in each line: ts, level, process, pid, logger, event, then the fields."""

    _date = "%Y-%m-%dT%H:%M:%S"
    converter = staticmethod(time.gmtime)

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
        # A field never replaces what every line has.
        line = fixed | record.__dict__.get(_FIELDS, {}) | fixed
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = _encode(line).decode()
        if text.isprintable():
            return text
        # What JSON leaves as it is controls terminals, too, or separates lines.
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class PlainFormatter(_Formatter):
    """A line for people: time, level, process, event, then ``name=value`` fields.

    A value with a space or with one of ``=`` and ``"`` is in quotes.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        named: dict[str, Any] = record.__dict__.get(_FIELDS, {})
        fields = "".join([f" {name}={value}" for name, value in named.items()])
        count = len(named)
        if '"' in fields or not fields.count(" ") == fields.count("=") == count:
            fields = "".join([f" {name}={_quoted(str(value))}" for name, value in named.items()])
        clock, level = self._time(record.created), record.levelname
        line = f"{clock} {level:<7} {self._process}  {record.getMessage()}{_printable(fields)}"
        if not record.exc_info:
            return line
        # A message in it may be a client's, with a line break: indented, it is no line of its own.
        text = self.formatException(record.exc_info).splitlines()
        return "\n  ".join([line, *map(_printable, text)])


def _quoted(value: str) -> str:
    """Return a value in quotes, unless it can't be taken for more than one value without."""
    if value and not any(c in value for c in ' ="'):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _printable(text: str) -> str:
    """Return text that stays in its line and doesn't control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _LineHandler(logging.Handler):
    """Writes each line at once, or those of one turn of an event loop together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []
        # If set, the lines of `thread` wait until this runs a callback.
        self.call_soon: Callable[[Callable[[], None]], object] | None = None
        self.thread = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; the caller holds the handler's lock."""
        try:
            self._waiting.append(self.format(record))
        except Exception:  # noqa: BLE001 - a line that can't be formatted must not end its event
            self.handleError(record)
        call_soon = self.call_soon
        if (
            call_soon is None
            # An error may be the last thing that a process writes.
            or record.levelno >= logging.ERROR
            or threading.get_ident() != self.thread
        ):
            self.flush()
        elif len(self._waiting) == 1:
            call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait. logging calls it at the end of the process too."""
        with self.lock or contextlib.nullcontext():
            waiting, self._waiting = self._waiting, []
            if waiting:
                # If nobody reads the log, nobody can be told so.
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write("\n".join(waiting) + "\n")
                    self._stream.flush()


def configure(process: str, *, level: Level, json_format: bool) -> None:
    """Send all logs of this process to standard error, in the configured format."""
    handler = _LineHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(process) if json_format else PlainFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # No line shows them (logging's how-to, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.11 doesn't have it
    logging.captureWarnings(capture=True)


def gather_lines(loop: "asyncio.AbstractEventLoop") -> None:
    """Write all lines of one turn of a loop together, at its end.

    Each write releases Python's lock to waiting threads, which costs more than the line itself.
    A process that is killed loses the lines of its last turn.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, _LineHandler):
            handler.call_soon, handler.thread = loop.call_soon, threading.get_ident()
