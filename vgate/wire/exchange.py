"""Publish and subscribe between frontends, through a proxy in the launcher.

Only this file and `vgate.wire.sockets` use ZeroMQ.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import zmq

from vgate.wire.sockets import bind, send_frames

_QUEUE_MESSAGES = 10_000
_LINGER_MS = 200
# Messages handled before the event loop gets a turn.
_READ_BATCH = 64


class Exchange:
    """The launcher's proxy: each frontend gets what any other one publishes.

    ZeroMQ's own proxy forwards messages in a thread; the launcher's loop is not involved.
    """

    def __init__(self, publish_endpoint: str, subscribe_endpoint: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._in = self._bind(zmq.XSUB, publish_endpoint)
        self._out = self._bind(zmq.XPUB, subscribe_endpoint)
        self._thread = threading.Thread(target=self._forward, name="exchange", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop forwarding."""
        # The proxy returns when its context ends; `term` waits until its thread has closed the
        # sockets.
        self._context.term()
        self._thread.join()

    def _bind(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        bound: zmq.Socket[bytes] = self._context.socket(kind)
        # A subscriber that hangs loses messages beyond this number, so that memory is bounded.
        bound.setsockopt(zmq.SNDHWM, _QUEUE_MESSAGES)
        bind(bound, endpoint)
        return bound

    def _forward(self) -> None:
        try:
            zmq.proxy(self._in, self._out)
        except zmq.ContextTerminated:
            self._in.close(0)
            self._out.close(0)


class AsyncPeers:
    """A frontend's connection to the `Exchange`.

    `on_message` is called with each message that another frontend published.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish_endpoint: str,
        subscribe_endpoint: str,
        on_message: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._open = True
        self._outbox: list[bytes] = []
        # The exchange returns our own messages as well; this marks them.
        self._origin = os.urandom(8)
        context: zmq.Context[Any] = zmq.Context.instance()
        self._out: zmq.Socket[bytes] = context.socket(zmq.PUB)
        self._in: zmq.Socket[bytes] = context.socket(zmq.SUB)
        for socket in (self._out, self._in):
            socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._in.setsockopt(zmq.SUBSCRIBE, b"")
        self._out.connect(publish_endpoint)
        self._in.connect(subscribe_endpoint)
        self._fd: int = self._in.FD
        loop.add_reader(self._fd, self._read)
        loop.call_soon(self._read)

    def publish(self, payload: bytes) -> None:
        """Send to all other frontends soon. One that is not connected yet misses the message."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(payload)

    def _flush(self) -> None:
        # One send for all messages of this iteration: each send wakes ZeroMQ's thread.
        outbox, self._outbox = self._outbox, []
        if self._open and outbox:
            send_frames(self._out, (self._origin, *outbox))

    def close(self) -> None:
        """Close the connection."""
        if self._open:
            self._flush()
            self._open = False
            self._loop.remove_reader(self._fd)
            self._out.close()
            self._in.close()

    def _read(self) -> None:
        for _ in range(_READ_BATCH):
            if not self._open:
                return
            try:
                frames = self._in.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if frames[0] != self._origin:
                for payload in frames[1:]:
                    self._on_message(payload)
        self._loop.call_soon(self._read)
