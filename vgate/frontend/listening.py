"""The listening socket, which the launcher has made, and how a frontend leaves it to another."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server import embed

from vgate.config.runtime import LISTEN_BACKLOG

# hyper closes an HTTP/1 connection without a request after this time.
_LONGEST_IDLE_S = HTTP1Settings.header_read_timeout / 1000
_LOOK_S = 0.5
OPEN_FILES = Path("/proc/self/fd")


class Server(embed.Server):
    """granian's embedded server on a socket that listens already.

    Args:
        target: The RSGI application.
        listener: The socket's descriptor, which granian closes in the end.
        options: granian's.
    """

    def __init__(self, target: Any, listener: int, **options: Any) -> None:
        super().__init__(target, **options)
        self.listener = listener

    def _init_shared_socket(self) -> None:
        # It listens again, so the backlog must be the launcher's.
        uds = False
        self._shd: Any = SocketHolder(self.listener, uds, LISTEN_BACKLOG)  # type: ignore[call-arg]


class Leaving:
    """Ends a server without losing a connection, when another process accepts on its socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, run_dir: str) -> None:
        self._loop = loop
        self._server = server
        self._path = Path(run_dir, f"left-{os.getpid()}")
        self._until: float | None = None
        self._port = 0

    def begin(self) -> None:
        """Accept no more; end with the last connection."""
        if self._until is not None:
            return
        self._until = self._loop.time() + _LONGEST_IDLE_S
        with socket.socket(fileno=os.dup(self._server.listener)) as listening:
            self._port = listening.getsockname()[1]
        self._stop_accepting()
        self._loop.call_later(_LOOK_S, self._look)

    def _stop_accepting(self) -> None:
        """Give the descriptor to a socket that nobody can connect to.

        granian can only stop as a whole, which closes idle connections under their clients' hands.
        Closing the descriptor would have it try again and again. What waits in the queue of the
        launcher's socket is for the other process.
        """
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(self._path))
            nobody.listen(1)
            self._path.unlink()
            nobody.setblocking(False)
            os.dup2(nobody.fileno(), self._server.listener, inheritable=False)

    def _look(self) -> None:
        assert self._until is not None
        if self._loop.time() < self._until and connections_to(self._port):
            self._loop.call_later(_LOOK_S, self._look)
            return
        # Running requests are finished; an HTTP/2 connection is told that it takes no more.
        self._server.stop()  # type: ignore[no-untyped-call]


def connections_to(port: int) -> int:
    """Return how many TCP connections to a port this process has open."""
    return sum(_is_connected(int(file.name), port) for file in OPEN_FILES.iterdir())


def _is_connected(descriptor: int, port: int) -> bool:
    """Whether it is a TCP connection to our port."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # no socket, or closed by now
        return False
    try:
        connection.getpeername()
        own = connection.getsockname()
    except OSError:
        return False
    finally:
        connection.detach()
    return connection.family != socket.AF_UNIX and own[1] == port
