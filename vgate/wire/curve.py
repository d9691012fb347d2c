"""CURVE for the sockets between hosts: both sides prove that they have their keys.

A server answers only clients on its list, and a client talks only to the server whose public key it
knows. Everything is encrypted with keys of the connection, so what was recorded is of no use later
(https://rfc.zeromq.org/spec/26/). Keys are 32 bytes.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import zmq
from zmq.utils import z85

from vgate.log import Log

KEY_BYTES = 32
_ZAP = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"vgate"
# Refusals are logged one by one up to so many in so long; others are counted.
_LOGGED = 10
_LOG_S = 60.0
# A connection must have said who it is by then.
_HANDSHAKE_MS = 5_000
# A peer that is silent for so long is lost, within two seconds of what cut it off. The threads of
# ZeroMQ ask and answer, whatever a program does meanwhile. A shorter silence is no sign: with 50 ms
# of delay and every twentieth packet lost, TCP pauses for more than a second at times.
_HEARTBEAT_MS = 250
SILENCE_MS = 1_500
# The first packet of a connection is sent again after 1 s only, if it was lost.
_CONNECT_MS = 3_000
_BACKLOG = 128
_FAILED = int(
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_MONITOR_STOPPED
)
_TCP = {
    zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
    zmq.HEARTBEAT_IVL: _HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: SILENCE_MS,
    zmq.HEARTBEAT_TTL: SILENCE_MS + _HEARTBEAT_MS,
    zmq.CONNECT_TIMEOUT: _CONNECT_MS,
    zmq.BACKLOG: _BACKLOG,
}

log = Log("vgate.wire")


class ServerKeys(NamedTuple):
    """How a bound socket proves what it is, and which public keys it lets in.

    `allows` is called on a thread of its own, at each handshake.
    """

    secret: bytes
    allows: Callable[[bytes], bool]


class ClientKeys(NamedTuple):
    """How a connecting socket proves what it is, and the public key of the only right server."""

    secret: bytes
    server: bytes


def new_secret() -> bytes:
    """Return a secret key."""
    return z85.decode(zmq.curve_keypair()[1])


def public_of(secret: bytes) -> bytes:
    """Return the public key of a secret one."""
    return z85.decode(zmq.curve_public(z85.encode(secret)))


def guard_server(
    socket: zmq.Socket[bytes], endpoint: str, keys: ServerKeys | None, max_message_bytes: int
) -> None:
    """Prepare a socket that will be bound to a tcp endpoint; without keys, everybody may come."""
    _set_tcp(socket, endpoint)
    # A peer that says that it sends more is cut off, before any memory is taken for it.
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    if keys is None:
        return
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
    # Without this, a connection would pass if there were nobody to ask.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    Gate(socket, keys.allows)


def guard_client(socket: zmq.Socket[bytes], endpoint: str, keys: ClientKeys | None) -> None:
    """Prepare a socket that will connect to a tcp endpoint."""
    _set_tcp(socket, endpoint)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public_of(keys.secret))
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)


def _set_tcp(socket: zmq.Socket[bytes], endpoint: str) -> None:
    for option, value in _TCP.items():
        socket.setsockopt(option, value)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)


class Gate:
    """Answers ZeroMQ's question whether a client's key is allowed (https://rfc.zeromq.org/spec/27/).

    ZeroMQ asks once for each handshake that has proved a key. Handshakes that failed are logged.
    Its thread ends with the context.
    """

    def __init__(self, socket: zmq.Socket[bytes], allows: Callable[[bytes], bool]) -> None:
        self._allows = allows
        self._asked = socket.context.socket(zmq.REP)
        self._asked.setsockopt(zmq.LINGER, 0)
        self._asked.bind(_ZAP)
        self._failed: zmq.Socket[bytes] = socket.get_monitor_socket(_FAILED)
        self._window = 0.0
        self._refused = 0
        threading.Thread(target=self._run, name="curve-gate", daemon=True).start()

    def _run(self) -> None:
        from zmq.utils.monitor import recv_monitor_message  # it imports zmq.asyncio

        poller = zmq.Poller()
        poller.register(self._asked, zmq.POLLIN)
        poller.register(self._failed, zmq.POLLIN)
        try:
            while True:
                for socket, _ in poller.poll():
                    if socket is self._asked:
                        self._answer()
                    elif recv_monitor_message(self._failed)["event"] == zmq.EVENT_MONITOR_STOPPED:
                        poller.unregister(self._failed)
                    else:
                        self._report("refused a connection that proved no key")
        except zmq.ContextTerminated:
            self._asked.close(0)
            self._failed.close(0)

    def _answer(self) -> None:
        # Version, request, domain, address, identity, mechanism, credentials.
        version, number, _, address, _, mechanism, *credentials = self._asked.recv_multipart()
        key = credentials[0] if len(credentials) == 1 else b""
        try:
            allowed = mechanism == b"CURVE" and len(key) == KEY_BYTES and self._allows(key)
        except Exception:
            log.exception("cannot tell whether a key is allowed")
            allowed = False
        status = (b"200", b"OK") if allowed else (b"400", b"key not allowed")
        self._asked.send_multipart([version, number, *status, b"", b""])
        if not allowed:
            where = address.decode(errors="replace")
            self._report("refused a key that is not allowed", address=where, key=key.hex())

    def _report(self, event: str, **fields: str) -> None:
        now = time.monotonic()
        if now >= self._window + _LOG_S:
            if self._refused > _LOGGED:
                log.warning("refused more connections", count=self._refused - _LOGGED)
            self._window, self._refused = now, 0
        self._refused += 1
        if self._refused <= _LOGGED:
            log.warning(event, **fields)
