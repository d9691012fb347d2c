"""Sockets between two processes. Only this file, `curve` and `exchange` beside it use ZeroMQ.

A `Router` binds: the engine's for frontends, the launcher's for its children. A `Dealer` connects.
Processes of one machine use ipc endpoints; those of others use tcp, with keys (`curve`).
Create sockets after a fork, in the process that uses them.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq

from vgate.wire.curve import ClientKeys, ServerKeys, guard_client, guard_server

_MS_PER_S = 1000

# Plain numbers: zmq's own are enumerations, whose operators run Python at every message.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE_NOBLOCK = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

# Messages kept for a peer that doesn't read. A frontend gets one message a step, so this is tens
# of seconds of a stopped process; beyond it the peer is dropped instead of filling our memory.
_SEND_QUEUE_MESSAGES = 20_000
# How long closing a socket may wait to hand over its last messages.
_LINGER_MS = 200
_DEALER_OPTIONS = {
    zmq.LINGER: _LINGER_MS,
    zmq.SNDHWM: 0,
    zmq.RCVHWM: 0,
    zmq.RECONNECT_IVL: 20,
    zmq.RECONNECT_IVL_MAX: 250,
}
# ZeroMQ would connect again under the same identity, and what was lost between the two connections
# would go unnoticed. So over tcp it has no time to: the owner closes a lost dealer at once.
_NEVER_MS = 24 * 3600 * 1000
# Longest message from another host, unless a bound socket has its own limit.
MAX_MESSAGE_BYTES = 64 << 20
# Messages handled before the event loop gets a turn, and their bytes: log probabilities are long.
_READ_BATCH = 256
_READ_BYTES = 128 << 10
_MAX_IPC_PATH_BYTES = 107  # sizeof(sockaddr_un.sun_path) - 1, unix(7)


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
    """Send one message of several frames without waiting, with less work than `send_multipart`."""
    *others, last = frames
    for frame in others:
        socket.send(frame, _MORE_NOBLOCK)
    socket.send(last, _NOBLOCK)


def has_message(socket: zmq.Socket[bytes]) -> bool:
    """Return whether a message can be received. Cheaper than a receive that fails."""
    events: int = socket.getsockopt(_EVENTS)  # type: ignore[assignment]
    return bool(events & _POLLIN)


class EndpointError(Exception):
    """An endpoint can't be used; the message says why and what to change."""


class Router:
    """A bound socket that many `Dealer`s connect to, used from one thread.

    `keys` and `max_message_bytes` count for a tcp endpoint; without keys it is open to everybody.
    """

    def __init__(
        self,
        endpoint: str,
        keys: ServerKeys | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        # Sending to a peer that is gone or doesn't read must fail, instead of dropping the message:
        # that is how the engine learns that a frontend died.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if is_tcp(endpoint):
            guard_server(self._socket, endpoint, keys, max_message_bytes)
        try:
            bind(self._socket, endpoint)
        except EndpointError:
            self.close()
            raise
        # The payloads of the last message that `receive` has not returned yet, in reverse order.
        self._received: tuple[bytes, list[bytes]] = (b"", [])

    def wait(self, timeout_s: float) -> bool:
        """Wait for a message; return False if none came in time."""
        timeout_ms = max(0, math.ceil(timeout_s * _MS_PER_S))
        return bool(self._received[1] or self._socket.poll(timeout_ms))

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next (peer, payload), or None if there is none now."""
        peer, payloads = self._received
        if not payloads:
            if not has_message(self._socket):
                return None
            try:
                peer, *payloads = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return None
            payloads.reverse()
            self._received = peer, payloads
        # The decoder rejects the message of a peer that sends no payload.
        return peer, payloads.pop() if payloads else b""

    def send(self, peer: bytes, payload: bytes) -> bool:
        """Send without waiting; False if the peer is gone or has stopped reading."""
        try:
            send_frames(self._socket, (peer, payload))
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; wait a moment until unsent messages have left."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._socket.close()
        self._context.term()


class Dealer:
    """A connecting socket with an identity of its own.

    It connects as soon as the other side is bound; over tcp it tries once, and counts as
    disconnected if that fails. When the connection is lost, its owner closes it and creates
    another, so that the process that binds the endpoint next gets no old messages. An endpoint that
    is none raises EndpointError.
    """

    def __init__(self, endpoint: str, name: str, keys: ClientKeys | None = None) -> None:
        _check_path(endpoint)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, f"{name}-{os.urandom(6).hex()}".encode())
        for option, value in _DEALER_OPTIONS.items():
            self._socket.setsockopt(option, value)
        events = int(zmq.EVENT_DISCONNECTED)
        if is_tcp(endpoint):
            guard_client(self._socket, endpoint, keys)
            self._socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
            self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 0)
            events |= int(zmq.EVENT_CONNECT_RETRIED)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(events)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close(linger_ms=0)
            raise EndpointError(f"cannot connect to {endpoint!r}: {error.strerror}") from None

    def send(self, *payloads: bytes) -> None:
        """Queue messages; they are sent together once the connection is established.

        Over tcp they are dropped if it is lost already, as `disconnected` will tell.
        """
        # It has no limit, so it can only be lost.
        with contextlib.suppress(zmq.Again):
            send_frames(self._socket, payloads)

    def receive(self) -> bytes | None:
        """Return the next message, or None if there is none now."""
        try:
            payload: bytes = self._socket.recv(_NOBLOCK)
        except zmq.Again:
            return None
        return payload

    def disconnected(self) -> bool:
        """Whether the connection was lost since the last call."""
        lost = False
        while self._monitor.poll(0):
            self._monitor.recv_multipart(zmq.NOBLOCK)
            lost = True
        return lost

    def close(self, *, linger_ms: int = _LINGER_MS) -> None:
        """Close the socket; with `linger_ms` 0 unsent messages are dropped."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)

    @property
    def fds(self) -> tuple[int, int]:
        """File descriptors that signal messages and a lost connection."""
        return self._socket.FD, self._monitor.FD

    @property
    def readable(self) -> bool:
        """Whether a message can be received."""
        return has_message(self._socket)

    def wait(self, timeout_s: float) -> None:
        """Wait for a message, for at most so long."""
        self._socket.poll(round(timeout_s * 1000))


def flush_dealers() -> None:
    """Wait until closed dealers have sent their messages, for at most their linger time."""
    zmq.Context.instance().term()


class AsyncDealer:
    """A `Dealer` on an event loop, with callbacks and without a task.

    Args:
        loop, endpoint, name: Where it runs and connects, and the start of its identity.
        on_batch: Called with the messages that have arrived, in order; at most `_READ_BATCH`,
            or `_READ_BYTES` and the last.
        on_lost: Called once when the connection is lost.
        keys: For a tcp endpoint.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        name: str,
        *,
        on_batch: Callable[[list[bytes]], None],
        on_lost: Callable[[], None],
        keys: ClientKeys | None = None,
    ) -> None:
        self._loop = loop
        self._dealer = Dealer(endpoint, name, keys)
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._open = True
        self._reading = False
        self._outbox: list[bytes] = []
        self._message_fd, self._monitor_fd = self._dealer.fds
        loop.add_reader(self._message_fd, self._read)
        loop.add_reader(self._monitor_fd, self._check)
        # The descriptors are edge-triggered (zmq_getsockopt(3), ZMQ_FD): messages that arrived
        # before they were watched don't signal again, and none does before the first read.
        loop.call_soon(self._read)
        loop.call_soon(self._check)

    def send(self, payload: bytes) -> None:
        """Queue a message; all of one iteration of the event loop are sent together at its end."""
        # Each send wakes ZeroMQ's thread, which costs several times as much as the message.
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(payload)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not (self._open and outbox):
            return
        self._dealer.send(*outbox)
        # Sending may consume the signal of a message that arrived, so check for one.
        if self._dealer.readable:
            self._read_soon()

    def _read_soon(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._reading = False
        if not self._open:
            return
        batch: list[bytes] = []
        size = 0
        dealer = self._dealer
        while dealer.readable and (payload := dealer.receive()) is not None:
            batch.append(payload)
            size += len(payload)
            if len(batch) == _READ_BATCH or size > _READ_BYTES:
                self._read_soon()
                break
        if batch:
            self._on_batch(batch)

    def _check(self) -> None:
        lost = self._open and self._dealer.disconnected()
        # Messages that the peer sent before it died still count. ZeroMQ's thread put them into our
        # queue before it reported the disconnection. A callback may close us.
        while lost and self._open and self._dealer.readable:
            self._read()
        if lost and self._open:
            self._on_lost()

    def close(self, *, drop: bool = False) -> None:
        """Stop watching and close; `drop` discards unsent messages."""
        if not self._open:
            return
        if not drop:
            self._flush()
        self._open = False
        self._loop.remove_reader(self._message_fd)
        self._loop.remove_reader(self._monitor_fd)
        self._dealer.close(linger_ms=0 if drop else _LINGER_MS)


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind a socket; raise EndpointError if the endpoint can't be bound."""
    _check_path(endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(f"cannot bind {endpoint}: {error.strerror}") from None


def is_tcp(endpoint: str) -> bool:
    """Whether an endpoint is, or may be, on another host."""
    return endpoint.startswith("tcp://")


def _check_path(endpoint: str) -> None:
    """Check the path of an ipc endpoint: its length, and that its directory exists."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint:
        return
    if len(os.fsencode(path)) > _MAX_IPC_PATH_BYTES:
        raise EndpointError(
            f"the socket path {path} is longer than {_MAX_IPC_PATH_BYTES} bytes; "
            "set server.run_dir to a shorter directory"
        )
    if not Path(path).parent.is_dir():
        raise EndpointError(f"the directory of {path} does not exist")
