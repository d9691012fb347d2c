"""Logging in one shape for all processes: a constant event phrase and named fields.

Standard ``logging`` underneath, so that the lines of granian and vLLM come out alike. Never log a
prompt, an answer or a key, and never a line per token.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

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
        if not logger.isEnabledFor(level):
            return
        caught = sys.exc_info() if exc_info else None
        handlers = logging.root.handlers
        if len(handlers) == 1 and type(handlers[0]) is _LineHandler and not logger.handlers:
            # What `logger.handle` would come to, in a third of the time.
            entry = Entry(time.time(), level, logger.name, event, fields, caught)
            handlers[0].put(level, handlers[0].lines.line(entry))
            return
        record = logging.LogRecord(logger.name, level, "", 0, event, (), caught)
        record.__dict__[_FIELDS] = fields
        logger.handle(record)


class Entry(NamedTuple):
    """What a line tells.

    Attributes:
        created: Unix time.
        level, logger, event, fields: Of the event.
        exc_info: The exception that was caught, if it tells of one.
    """

    created: float
    level: int
    logger: str
    event: str
    fields: dict[str, Any]
    exc_info: Any = None


class _Formatter(logging.Formatter):
    """Turns an entry or a record into one line; ``process`` is engine, frontend-1, launcher."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._pid = os.getpid()
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        fields = getattr(record, _FIELDS, {})
        entry = Entry(record.created, record.levelno, record.name, record.getMessage(), fields,
                      record.exc_info)  # fmt: skip
        return self.line(entry)

    def line(self, entry: Entry) -> str:
        """Format an entry."""
        raise NotImplementedError

    def _time(self, created: float) -> str:
        """Return a time, to the millisecond."""
        second, milliseconds = divmod(int(created * 1000), 1000)
        if second != self._second[0]:
            self._second = second, self._second_as_text(second)
        return f"{self._second[1]}.{milliseconds:03}"

    def _second_as_text(self, second: int) -> str:
        raise NotImplementedError

    def _exception(self, entry: Entry) -> str | None:
        return self.formatException(entry.exc_info) if entry.exc_info else None


class JSONFormatter(_Formatter):
    """One JSON object a line: ts, level, process, pid, logger, event, then the fields."""

    def line(self, entry: Entry) -> str:
        """Format an entry."""
        fixed = {
            "ts": f"{self._time(entry.created)}+00:00",
            "level": logging.getLevelName(entry.level).lower(),
            "process": self._process,
            "pid": self._pid,
            "logger": entry.logger,
            "event": entry.event,
        }
        # What every line has is never replaced by a field of the same name.
        line = fixed | entry.fields | fixed
        if exception := self._exception(entry):
            line["exception"] = exception
        return _encode(line).decode()

    def _second_as_text(self, second: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class PlainFormatter(_Formatter):
    """A line for people: time, level, process, event, then ``name=value`` fields."""

    def line(self, entry: Entry) -> str:
        """Format an entry."""
        fields = "".join([f" {name}={value}" for name, value in entry.fields.items()])
        if not fields.isprintable():
            fields = "".join([f" {name}={_plain(v)}" for name, v in entry.fields.items()])
        clock, level = self._time(entry.created), logging.getLevelName(entry.level)
        line = f"{clock} {level:<7} {self._process}  {entry.event}{fields}"
        exception = self._exception(entry)
        return f"{line}\n{exception}" if exception else line

    def _second_as_text(self, second: int) -> str:
        return time.strftime("%H:%M:%S", time.localtime(second))


class _LineHandler(logging.Handler):
    """Writes lines to a stream, each at once or those of one turn of an event loop together."""

    def __init__(self, stream: TextIO, lines: _Formatter) -> None:
        super().__init__()
        self.setFormatter(lines)
        self.lines = lines
        self._stream = stream
        self._waiting: list[str] = []
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self._thread = 0

    def gather(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Have the lines of this thread wait until `call_soon` calls."""
        self._call_soon = call_soon
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self.put(record.levelno, self.lines.format(record))
        except Exception:  # noqa: BLE001 - a line that can't be told must not end what it tells of
            self.handleError(record)

    def put(self, level: int, line: str) -> None:
        """Write a line."""
        with self.lock or contextlib.nullcontext():
            self._waiting.append(line)
        call_soon = self._call_soon
        if (
            call_soon is None
            # Errors may be a process's last words.
            or level >= logging.ERROR
            or threading.get_ident() != self._thread
        ):
            self.flush()
        elif len(self._waiting) == 1:
            call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits. Also called at the end of the process."""
        with self.lock or contextlib.nullcontext():
            waiting, self._waiting = self._waiting, []
            if waiting:
                # Nobody can be told that nobody reads.
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
    lines = JSONFormatter(process) if json_format else PlainFormatter(process)
    root = logging.getLogger()
    root.handlers[:] = [_LineHandler(sys.stderr, lines)]
    root.setLevel(level.upper())
    # No line tells them (logging's how-to, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.11 doesn't have it
    logging.captureWarnings(capture=True)


def gather_lines(loop: asyncio.AbstractEventLoop) -> None:
    """Have lines that are logged in one turn of a loop leave together, at its end.

    Each writing lets go of Python's own lock, for which other threads wait: that costs more than
    the line. A process that is killed loses the lines of its last turn.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, _LineHandler):
            handler.gather(loop.call_soon)
