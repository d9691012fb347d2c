"""A TCP link between two processes that can be held back, cut, and recorded."""

import contextlib
import selectors
import socket
import threading
from typing import Self


class Link:
    """Forwards connections on a port of its own to `target`, a port of this machine.

    Attributes:
        sent: What each client has sent so far, one after the other.
        accepted: How many connections came.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent: list[bytearray] = []
        self.accepted = 0
        self._pairs: dict[socket.socket, tuple[socket.socket, bytearray | None]] = {}
        self._ended: list[socket.socket] = []
        self._held: list[tuple[socket.socket, bytes]] = []
        self._holding = self._refusing = False
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def hold(self) -> None:
        """Keep what is sent in either direction from now on; who connects hears nothing."""
        with self._lock:
            if not self._holding:
                self._selector.unregister(self._listener)
            self._holding = True

    def refuse(self) -> None:
        """Let nobody else connect."""
        with self._lock:
            self._refusing = True

    def allow(self) -> None:
        """Let others connect; what is held stays held."""
        with self._lock:
            self._refusing = False
            if self._holding:
                self._selector.register(self._listener, selectors.EVENT_READ)
            self._holding = False

    def release(self) -> int:
        """Deliver what was held, as far as anybody still takes it; return how many bytes it was."""
        with self._lock:
            self.allow()
            held, self._held = self._held, []
            for to, data in held:
                with contextlib.suppress(OSError):
                    to.sendall(data)
            return sum(len(data) for _, data in held)

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            for one in list(self._pairs):
                self._close(one)

    def _close(self, one: socket.socket) -> None:
        if (pair := self._pairs.pop(one, None)) is not None:
            self._selector.unregister(one)
            one.close()
            self._close(pair[0])

    def _run(self) -> None:
        while self._open:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if self._refusing:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self.sent.append(bytearray())
        self._pairs[client] = server, self.sent[-1]
        self._pairs[server] = client, None
        for one in (client, server):
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        to, sent = self._pairs[one]
        try:
            data = one.recv(1 << 16)
        except OSError:
            data = b""
        if self._holding:
            # A host that can't be reached sends no end either.
            if data:
                self._held.append((to, data))
            else:
                self._selector.unregister(one)
                del self._pairs[one]
                self._ended.append(one)
            return
        if not data:
            self._close(one)
            return
        if sent is not None:
            sent += data
        with contextlib.suppress(OSError):
            to.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._open = False
        self._thread.join(10)
        self.cut()
        for one in self._ended:
            one.close()
        self._selector.close()
        self._listener.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
