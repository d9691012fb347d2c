"""The listening sockets of the frontends. The launcher holds them, so they outlive each process."""

import socket

from vgate.config.runtime import LISTEN_BACKLOG
from vgate.config.schema import Server
from vgate.launcher.run_dir import StartError


class Listeners:
    """A socket for each frontend, all with the same port: the kernel spreads connections over them.

    One socket for all frontends would be simpler, but whoever is quickest takes most of a burst: of
    64 connections that come at once one of two workers got 39 to 62.

    A connection waits in its socket's queue while that has no process. Only `close` loses any.

    Raises:
        StartError: The port can't be used.
    """

    def __init__(self, server: Server) -> None:
        host, port = server.host, server.port
        self._sockets: list[socket.socket] = []
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            # With SO_REUSEPORT it would succeed even if another server of this user had the port.
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            for _ in range(server.worker_count):
                listener = socket.socket(family, kind, protocol)
                self._sockets.append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.setblocking(False)
                listener.bind(address)
            for listener in self._sockets:
                listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            self.close()
            raise StartError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; "
                "set server.host or server.port (--port) to another"
            ) from None

    @property
    def descriptors(self) -> list[int]:
        """Their descriptors, one for each frontend."""
        return [listener.fileno() for listener in self._sockets]

    def close(self) -> None:
        """Close them; processes that have inherited them go on."""
        for listener in self._sockets:
            listener.close()
