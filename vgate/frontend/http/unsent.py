"""Disconnects clients that don't read their answers, which would otherwise pile up in memory.

granian can't say so: `send_bytes` puts bytes into an unbounded queue and returns at once (granian
2.8, src/rsgi/io.rs). The kernel can: as long as a client takes everything, nothing stays in its
socket's send queue (SIOCOUTQ, tcp(7)), because hyper fills that whenever there is room. So the
sockets with an answer are looked at once a second, and only where there is a queue are the
acknowledged bytes asked for (TCP_INFO) and those that are written from then on counted.

In HTTP/2 the answers of a connection share its queue, and only the latest is watched. What waits
for a client's flow-control window is not in the queue, so one that withholds it isn't noticed.
"""

import asyncio
import fcntl
import os
import socket
import stat
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import suppress

from vgate.frontend.http.waits import Divert, Write
from vgate.log import Log

_SWEEP_S = 1.0
# So many are looked at in one turn of the loop, in about a millisecond.
_STEP_DESCRIPTORS = 500
# All clients together may lie behind by so many times as much as one.
_ALL_BYTES = 16
_ACKED_AT = 120  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h)
_TCP_INFO_BYTES = _ACKED_AT + 8
# Drop what is queued and reset the connection, when its last descriptor is closed.
_NO_LINGER = struct.pack("ii", 1, 0)

log = Log("vgate.frontend")


class Sending:
    """One answer on its way to a client.

    Args:
        until: When it must have been sent, in monotonic seconds.

    Attributes:
        finished: All of it was written.
        unsent: Bytes that the client has not taken, as far as they are known.
    """

    __slots__ = (
        "_acked",
        "_base",
        "_divert",
        "_idle_looks",
        "_moved_at",
        "_until",
        "_written",
        "finished",
        "request_id",
        "unsent",
    )

    def __init__(self, request_id: str, until: float, divert: Divert | None, size: int) -> None:
        self.request_id = request_id
        self.finished = False
        self.unsent = 0
        self._until = until
        self._divert = divert
        self._written = size
        self._idle_looks = 0
        self._acked = 0
        # What was acknowledged when the client fell behind.
        self._base: int | None = None
        self._moved_at = 0.0

    def finish(self) -> None:
        """Note that the last byte was written."""
        self.finished, self._divert = True, None

    def keeps_up(self) -> bool:
        """Note that nothing is queued; return whether the answer is still to be watched."""
        self._base, self.unsent = None, 0
        self._idle_looks += 1
        # The queue may be empty for the moment that hyper takes to fill it.
        return not self.finished or self._idle_looks < 2

    def falls_behind(self, queued: int, acked: int, now: float, timeout_s: float) -> bool:
        """Note what is queued, and was acknowledged so far; return whether it takes too long."""
        self._idle_looks = 0
        if self._base is None:
            self._base, self._moved_at = acked, now
            if self._divert is not None:
                self._written = queued
                divert, self._divert = self._divert, None
                divert(self._counted)
        elif acked > self._acked:
            self._moved_at = now
        self._acked = acked
        self.unsent = max(queued, self._written - (acked - self._base))
        return now - self._moved_at >= timeout_s or now >= self._until

    def _counted(self, write: Write) -> Write:
        def counting(data: bytes) -> None:
            self._written += len(data)
            write(data)

        return counting


class Unsent:
    """Watches the clients of one worker.

    Args:
        timeout_s: How long a client may take nothing.
        request_s: How long an answer may take from the arrival of its request to its last byte.
        max_bytes: The most that a client may lie behind with an answer that is being written.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout_s: float, request_s: float, max_bytes: int
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._request_s = request_s
        self._max_bytes = max_bytes
        self._sweep_s = min(_SWEEP_S, timeout_s / 4)
        self._sendings: dict[str, Sending] = {}
        # The clients of sockets, by descriptor and inode.
        self._clients: dict[tuple[int, int], str] = {}
        # Of the next sweep, or the one that goes on.
        self._timer: asyncio.TimerHandle | None = None

    def begin(
        self, client: str, request_id: str, arrived: float, divert: Divert | None, size: int
    ) -> Sending:
        """Watch an answer to a client's address, until it is finished and was sent.

        Its request arrived at `arrived`, in monotonic seconds. `divert` diverts the writes of an
        answer that isn't complete yet; `size` has the bytes of one that is.
        """
        until = arrived + self._request_s + _SWEEP_S
        sending = self._sendings[client] = Sending(request_id, until, divert, size)
        if self._timer is None:
            self._timer = self._loop.call_later(self._sweep_s, self._sweep)
        return sending

    def _sweep(self) -> None:
        self._go_on(self._look())

    def _go_on(self, steps: Iterator[None]) -> None:
        """Take the next step of a sweep; the one after it has its own turn of the loop."""
        for _ in steps:
            self._loop.call_soon(self._go_on, steps)
            return
        self._timer = None
        if self._sendings:
            self._timer = self._loop.call_later(self._sweep_s, self._sweep)

    def _look(self) -> Iterator[None]:
        """Look at all connections; yields now and then."""
        now, begun, watched = time.monotonic(), self._sendings.copy(), set[str]()
        behind: list[tuple[int, int, str]] = []
        for number, (descriptor, client) in enumerate(self._connections()):
            if number % _STEP_DESCRIPTORS == _STEP_DESCRIPTORS - 1:
                yield
            if (sending := begun.get(client)) is None:
                continue
            try:
                queued, acked = _progress(descriptor)
            except OSError:  # it was closed meanwhile
                continue
            if queued:
                late = sending.falls_behind(queued, acked, now, self._timeout_s)
                most = sending.unsent if sending.finished else self._max_bytes
                if late or sending.unsent > most:
                    self._cut(descriptor, client, sending)
                    continue
                behind.append((sending.unsent, descriptor, client))
            elif not sending.keeps_up():
                continue
            watched.add(client)
        total = sum(unsent for unsent, *_ in behind)
        for unsent, descriptor, client in sorted(behind, reverse=True):
            if total <= _ALL_BYTES * self._max_bytes:
                break
            self._cut(descriptor, client, begun[client])
            total -= unsent
        for client, sending in begun.items():
            # A connection may have begun another answer meanwhile.
            if client not in watched and self._sendings.get(client) is sending:
                del self._sendings[client]

    def _connections(self) -> Iterator[tuple[int, str]]:
        """Yield this process's descriptors, and their clients' addresses, "" for what has none."""
        known, self._clients = self._clients, {}
        for entry in os.scandir("/proc/self/fd"):
            descriptor, client = int(entry.name), ""
            with suppress(OSError):  # it was closed meanwhile
                status = os.fstat(descriptor)
                if stat.S_ISSOCK(status.st_mode):
                    key = descriptor, status.st_ino
                    client = known[key] if key in known else _client_of(descriptor)
                    self._clients[key] = client
            yield descriptor, client

    def _cut(self, descriptor: int, client: str, sending: Sending) -> None:
        """Reset a connection. hyper drops what it holds, and granian reports the disconnect."""
        log.warning(
            "a client takes too little of its answer and is cut",
            request_id=sending.request_id,
            unsent_bytes=sending.unsent,
        )
        try:
            # The copy keeps granian's thread from giving the number to another connection.
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if _name(connection) == client:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended


def _client_of(descriptor: int) -> str:
    """Return the address of a socket's peer as granian writes it; "" for what has none."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            return _name(connection)
    except OSError:
        return ""


def _name(connection: socket.socket) -> str:
    if connection.family == socket.AF_INET:
        host, port = connection.getpeername()
        return f"{host}:{port}"
    if connection.family == socket.AF_INET6:
        host, port, *_ = connection.getpeername()
        return f"[{host}]:{port}"
    return ""


def _progress(descriptor: int) -> tuple[int, int]:
    """Return the bytes in a connection's send queue and, if there are any, those acknowledged."""
    (queued,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    if not queued:
        return 0, 0
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (acked,) = struct.unpack_from("Q", info, _ACKED_AT)
    return queued, acked
