"""Logging in one format for all processes: a constant event phrase and named fields.

It uses standard ``logging``, so the lines of granian and vLLM get the same format, with the library
as their source. Never log a prompt, an answer or a key, and never a line per token.
"""

import contextlib
import json
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

from vgate.library_logs import Libraries, library_of

if TYPE_CHECKING:
    import asyncio

Level = Literal["debug", "info", "warning", "error", "critical"]

_FIELDS = "vgate_fields"
_MOST_WAITING_BYTES = 1 << 18
_LAST_WORDS_S = 1.0

_encode = msgspec.json.Encoder(enc_hook=str).encode
_FIXED = frozenset({"ts", "level", "process", "pid", "logger", "event"})
_THOUSANDTHS = [f".{number:03}" for number in range(1000)]

# A record's attributes; not its process and thread, which would be the importing ones.
_BLANK = vars(logging.LogRecord("", 0, "", 0, "", (), None)) | dict.fromkeys(
    ("process", "processName", "thread", "threadName", _FIELDS)
)


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

    def event(self, event: str, fields: dict[str, Any]) -> None:
        """Log a normal event whose fields are many, and a dictionary already."""
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
            logger.callHandlers(_record(logger.name, level, event, fields, caught))


def _record(
    name: str, level: int, event: str, fields: dict[str, Any], caught: Any
) -> logging.LogRecord:
    """Return a record without looking for what no line shows, such as the thread."""
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__ = attributes = _BLANK.copy()
    attributes["name"], attributes["msg"] = name, event
    attributes["levelno"], attributes["levelname"] = level, logging.getLevelName(level)
    attributes["created"] = created = time.time()
    attributes["msecs"] = created % 1 * 1000
    attributes["exc_info"], attributes[_FIELDS] = caught, fields
    return record


def milliseconds(seconds: float) -> float:
    """Return a time as lines have it: in milliseconds, to a tenth."""
    # `round` writes the number as text and reads it again.
    return int(seconds * 10_000 + 0.5) / 10


class _Formatter(logging.Formatter):
    """Turns a record into one line; ``process`` is a name such as engine or frontend-1."""

    _date = "%Y-%m-%d %H:%M:%S"  # a log file has the lines of weeks

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._second = (0, "")

    def _time(self, created: float) -> str:
        """Return a time, to the millisecond. The text of a second is made once."""
        second, milliseconds = divmod(int(created * 1000), 1000)
        if second != self._second[0]:
            self._second = second, time.strftime(self._date, self.converter(second))
        return self._second[1] + _THOUSANDTHS[milliseconds]


class JSONFormatter(_Formatter):
    """One JSON object in each line: ts, level, process, pid, logger, event, then the fields."""

    _date = "%Y-%m-%dT%H:%M:%S"
    converter = staticmethod(time.gmtime)

    def __init__(self, process: str, *, is_own: bool = True) -> None:
        super().__init__(process)
        # Another's pipe is that of its workers, too, so the pid is not known.
        self._pid = os.getpid() if is_own else None
        # Our own events are constant.
        self._head = lru_cache(maxsize=256)(self._made_head)

    def _made_head(self, level: str, logger: str, event: str, source: str | None) -> bytes:
        """Return the JSON of the fixed fields, but for the time."""
        fixed = {"level": level.lower(), "process": self._process, "pid": self._pid}
        more = {"logger": logger, "event": event} | ({"source": source} if source else {})
        return _encode(fixed | more)[1:-1]

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        fields: dict[str, Any] = record.__dict__.get(_FIELDS, {})
        source = library_of(record)
        fixed = _FIXED if source is None else {*_FIXED, "source"}
        if not fixed.isdisjoint(fields):  # which no field replaces
            fields = {name: value for name, value in fields.items() if name not in fixed}
        if record.exc_info:
            fields = {**fields, "exception": self.formatException(record.exc_info)}
        of = self._head if source is None else self._made_head
        head = of(record.levelname, record.name, record.getMessage(), source)
        more = b"," + _encode(fields)[1:] if fields else b"}"
        encoded = b'{"ts":"%s+00:00",%s%s' % (self._time(record.created).encode(), head, more)
        text = encoded.decode()
        # JSON escapes all controls of ASCII but this one.
        if (encoded.isascii() and 0x7F not in encoded) or text.isprintable():
            return text
        # What JSON leaves as it is controls terminals, too, or separates lines.
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class PlainFormatter(_Formatter):
    """A line for people: local date and time, level, process, event, then ``name=value`` fields.

    The process of a library's line is such as ``engine:vllm``. A value with a space or with one of
    ``=`` and ``"`` is in quotes.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        named: dict[str, Any] = record.__dict__.get(_FIELDS, {})
        fields = "".join([f" {name}={value}" for name, value in named.items()])
        count = len(named)
        if '"' in fields or not fields.count(" ") == fields.count("=") == count:
            fields = "".join([f" {name}={_quoted(str(value))}" for name, value in named.items()])
        clock, level, process = self._time(record.created), record.levelname, self._process
        if (source := library_of(record)) is not None:
            process = f"{process}:{source}"
        line = f"{clock} {level:<7} {process}  {record.getMessage()}{_printable(fields)}"
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


class _Pipe:
    """Writes to a pipe that only this process writes to, and never waits for its reader.

    The process gets a description of its own that does not block: it must not change the one that
    it shares. What does not fit is kept, within a bound, until the next line.
    """

    def __init__(self, fd: int) -> None:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fd = own
        self._rest = bytearray()
        self._dropped = 0

    def write(self, text: str) -> None:
        """Write whole lines, or drop them if too much waits."""
        data = text.encode(errors="backslashreplace")
        self.flush()
        # Lines that are dropped are dropped in one piece, so that it is told once.
        most_bytes = _MOST_WAITING_BYTES // 2 if self._dropped else _MOST_WAITING_BYTES
        if len(self._rest) + len(data) > most_bytes:
            self._dropped += data.count(b"\n")
            return
        if self._dropped:
            self._rest += dropped_line(self._dropped).encode()
            self._dropped = 0
        self._rest += data
        self.flush()

    def flush(self) -> None:
        """Write as much of the rest as fits."""
        while self._rest:
            try:
                del self._rest[: os.write(self._fd, self._rest)]
            except BlockingIOError:
                return
            except OSError:
                # If nobody reads the log, nobody can be told so.
                self._rest.clear()

    def close(self) -> None:
        """Write the rest, for a limited time."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while self._rest and (left_s := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(left_s * 1000)
            self.flush()


class _LineHandler(logging.Handler):
    """Writes each line at once, or those of one turn of an event loop together."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream: TextIO | _Pipe | None = stream
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not a pipe, or not Linux
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                self._stream = _Pipe(stream.fileno())
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
            if waiting and self._stream is not None:
                # If nobody reads the log, nobody can be told so.
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write("\n".join(waiting) + "\n")
                    self._stream.flush()

    def close(self) -> None:
        """Write what waits, for a limited time. logging calls it at the end of the process."""
        if isinstance(self._stream, _Pipe):
            self._stream.close()
        super().close()


def configure(process: str, *, level: Level, json_format: bool, attended: bool = False) -> None:
    """Send all logs of this process to standard error, in the configured format.

    What libraries say below warnings is at debug, unless the log is `attended`: goes to a file of
    its own, with the launcher's terminal for what matters.
    """
    handler = _LineHandler(sys.stderr)
    handler.addFilter(
        Libraries(getattr(logging, level.upper()), logging.INFO if attended else logging.DEBUG)
    )
    handler.setFormatter(JSONFormatter(process) if json_format else PlainFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # No line shows them (logging's how-to, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    setattr(logging, "logAsyncioTasks", False)  # noqa: B010 - Python 3.11 doesn't have it
    logging.captureWarnings(capture=True)


def foreign_line(process: str, text: str) -> str:
    """Return the JSON line for what a process has written past its log."""
    record = logging.LogRecord("stderr", logging.INFO, "", 0, "%s", (text,), None)
    return JSONFormatter(process, is_own=False).format(record) + "\n"


def dropped_line(count: int) -> str:
    """Return the line that says how many lines were dropped, in the configured format."""
    event = "log lines were dropped"
    record = logging.LogRecord("vgate.log", logging.WARNING, "", 0, event, (), None)
    record.__dict__[_FIELDS] = {"count": count}
    handler = next((one for one in logging.root.handlers if isinstance(one, _LineHandler)), None)
    return (handler.format(record) if handler else f"{event}: {count}") + "\n"


def gather_lines(loop: "asyncio.AbstractEventLoop") -> None:
    """Write all lines of one turn of a loop together, at its end.

    Each write releases Python's lock to waiting threads, which costs more than the line itself.
    A process that is killed loses the lines of its last turn.
    """
    for handler in logging.root.handlers:
        if isinstance(handler, _LineHandler):
            handler.call_soon, handler.thread = loop.call_soon, threading.get_ident()
