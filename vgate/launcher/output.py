"""What the launcher and its children write, on its way to a terminal, a file or a collector.

Nobody may read there: a terminal after Ctrl-S, a collector that is stuck. Writing must not stop
requests, supervision or SIGTERM then, so a thread does it, and what it can't write in time is
dropped, counted, and told once writing goes on. The descriptors are other programs' as well, so
they stay blocking.
"""

import contextlib
import fcntl
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

from vgate import log as logs

_MOST_WAITING_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_LONGEST_LINE_BYTES = 1 << 16
# A pipe's lines of this time are passed on together: each write wakes two threads.
_GATHER_S = 0.01
_LAST_WORDS_S = 1.0
_JSON_START = b'{"ts":"'


class Output(io.TextIOBase):
    """A text stream to a descriptor, which never waits for its reader."""

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        super().__init__()
        self._fd = fd
        self._encoding = encoding
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0  # with those that are being written
        self._dropped = 0
        self._changed = threading.Condition()
        self._forwarding: set[threading.Thread] = set()
        threading.Thread(target=self._write_waiting, name="output", daemon=True).start()

    def write(self, text: str, /) -> int:
        """Write a text."""
        self.write_bytes(text.encode(self._encoding, "backslashreplace"))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write whole lines, or drop them if too much waits."""
        with self._changed:
            # Lines that are dropped are dropped in one piece, so that it is told once.
            most_bytes = _MOST_WAITING_BYTES // 2 if self._dropped else _MOST_WAITING_BYTES
            if self._waiting_bytes + len(data) > most_bytes:
                self._dropped += data.count(b"\n")
                return
            self._tell_dropped()
            self._append(data)

    def pass_on(self, lines: bytes, process: str) -> None:
        """Write whole lines that a process has written."""
        self.write_bytes(lines)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of what is written."""
        return self._encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def wait_written(self, timeout_s: float) -> bool:
        """Wait until everything is written; return False if it is not after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting_bytes, timeout_s)

    def pipe(self, process: str = "") -> tuple[int, threading.Thread]:
        """Return a new pipe's end for writing, and the thread that passes on what is written.

        The thread ends when the last copy of the descriptor is closed. The caller closes its own.
        """
        reading, writing = os.pipe()
        with contextlib.suppress(AttributeError, OSError):  # Linux only, and limited for each user
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        thread = threading.Thread(target=self._forward, args=(reading, process), daemon=True)
        self._forwarding = {other for other in self._forwarding if other.is_alive()} | {thread}
        thread.start()
        return writing, thread

    def end(self) -> None:
        """Wait until the pipes are empty and everything is written, for a limited time."""
        deadline = time.monotonic() + _LAST_WORDS_S
        for thread in self._forwarding:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.wait_written(max(0.0, deadline - time.monotonic()))

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._changed.notify_all()

    def _tell_dropped(self) -> None:
        """Append how many lines were dropped, if any; the caller holds the lock."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(logs.dropped_line(dropped).encode(self._encoding, "backslashreplace"))

    def _write_waiting(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = b"".join(self._waiting)
                self._waiting.clear()
            written = self._write_all(data)
            with self._changed:
                self._waiting_bytes -= len(data)
                if not written:  # a full disk, or nobody is left to read
                    self._dropped += data.count(b"\n")
                elif not self._waiting:
                    self._tell_dropped()
                self._changed.notify_all()

    def _write_all(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another program has made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True

    def _forward(self, pipe: int, process: str) -> None:
        # Lines are passed on in small pieces of their own. To read into a new object as large as
        # could be, and to shrink it, leaves holes between the pieces that no such object fits into.
        buffer = memoryview(bytearray(_READ_BYTES))
        rest = b""
        while count := os.readv(pipe, [buffer]):
            whole = rest + buffer[:count]
            end = max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1
            if not end and len(whole) > _LONGEST_LINE_BYTES:
                end = len(whole)
            if end:
                self.pass_on(whole[:end], process)
            rest = whole[end:]
            if count < _READ_BYTES:
                time.sleep(_GATHER_S)
        os.close(pipe)
        if rest:
            self.pass_on(rest + b"\n", process)


class JSONLines(Output):
    """Makes JSON of the lines of processes that are none: what libraries write past the log."""

    def pass_on(self, lines: bytes, process: str) -> None:
        """Write whole lines that a process has written."""
        own = lines.startswith(_JSON_START) + lines.count(b"\n" + _JSON_START)
        if own != lines.count(b"\n") or b"\r" in lines:
            lines = b"".join(
                line + b"\n"
                if line.startswith(_JSON_START)
                else logs.foreign_line(process, line.decode(errors="replace")).encode()
                for line in lines.splitlines()
                if line.strip()
            )
        self.write_bytes(lines)


@contextlib.contextmanager
def unblocked(kind: type[Output] = Output) -> Iterator[Output | None]:
    """Make `sys.stdout` and `sys.stderr` an `Output` each, or one if they are the same file.

    Yields that of standard error; None if it is closed or no file.
    """
    streams = sys.stdout, sys.stderr
    outputs: dict[tuple[int, int], Output] = {}
    made = []
    for stream in streams:
        try:
            fd = stream.fileno()
            status = os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            made.append(stream)
            continue
        file = status.st_dev, status.st_ino
        if file not in outputs:
            outputs[file] = kind(fd, stream.encoding)
        made.append(outputs[file])
    sys.stdout, sys.stderr = made
    try:
        yield made[1] if isinstance(made[1], Output) else None
    finally:
        for output in outputs.values():
            output.end()
        sys.stdout, sys.stderr = streams
