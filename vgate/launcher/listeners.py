"""The listening sockets of the frontends. The launcher holds them, so they outlive each process."""

import errno
import socket
from collections.abc import Iterable
from typing import Any

from vgate.config import Config
from vgate.config.runtime import LISTEN_BACKLOG
from vgate.config.schema import Server
from vgate.launcher.run_dir import StartError
from vgate.log import Log

log = Log("vgate.launcher")


def listen(server: Server) -> list[socket.socket]:
    """Return a socket for each frontend, all with the same port: the kernel spreads connections.

    One socket for all frontends would be simpler, but whoever is quickest takes most of a burst: of
    64 connections that come at once one of two workers got 39 to 62.

    A connection waits in its socket's queue while that has no process. Only `close` loses any.

    Raises:
        StartError: The port can't be used.
    """
    listeners: list[socket.socket] = []
    try:
        (family, kind, protocol), address = _free_address(server)
        for _ in range(server.worker_count):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setblocking(False)
            listener.bind(address)
        for listener in listeners:
            listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        close(listeners)
        raise _cannot_listen(server, error) from None
    return listeners


def close(listeners: Iterable[socket.socket]) -> None:
    """Close sockets; processes that have inherited them go on."""
    for listener in listeners:
        listener.close()


def check_port(server: Server) -> None:
    """Raise StartError if the port can't be used now."""
    try:
        _free_address(server)
    except OSError as error:
        raise _cannot_listen(server, error) from None


def warn_if_open(config: Config) -> bool:
    """Warn if other machines may use the server without a key; return whether they may."""
    if config.security.enabled or config.server.is_local:
        return False
    log.warning(
        "EVERYBODY who reaches this address may use the server: security.enabled is false",
        host=config.server.host,
    )
    return True


def _free_address(server: Server) -> tuple[tuple[int, int, int], Any]:
    """Return the arguments of a listening socket and its address, on which nobody listens."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With SO_REUSEPORT it would succeed even if another server of this user had the port.
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    return (family, kind, protocol), address


def _cannot_listen(server: Server, error: OSError) -> StartError:
    what = "set server.host or server.port (--port) to another"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        what = (
            "set server.host (--host) to an address of this machine, 127.0.0.1 for its own "
            "programs only or 0.0.0.0 for others too"
        )
        if any(sign in server.host for sign in "[]/") or server.host.count(":") == 1:
            what = "server.host (--host) must be only an address, without http://, port or brackets"
    elif error.errno == errno.EADDRINUSE:
        what = "stop the program that has the port, or set server.port (--port) to another"
    elif error.errno == errno.EACCES:
        what = "ports below 1024 are for root: set server.port (--port) to a higher one"
    why = error.strerror or error
    return StartError(f"cannot listen on {server.host}:{server.port}: {why}; {what}")
