"""Answers the connections that the process has no room for, where few files may be open.

granian takes a limited number of connections and leaves the others in the listening socket's queue,
where a client waits without knowing why, and so would a health check. While it has no room, this
takes them: it answers `/health`, refuses everything else with 503, and closes.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable

from vgate.config import Runtime
from vgate.config.runtime import SHED_AT_ONCE
from vgate.config.schema import Tls
from vgate.errors import OverloadedError
from vgate.frontend.apis.anthropic import errors as anthropic
from vgate.frontend.apis.openai import errors as openai
from vgate.frontend.apis.system.health import HEALTHY
from vgate.frontend.listening import OPEN_FILES, connections_to
from vgate.log import Log

_LOOK_S = 0.2
# For the head of a request, and for the client to read the answer.
_PATIENCE_S = 2.0
_LONGEST_HEAD_BYTES = 1 << 16
_TELL_EVERY_S = 60.0

log = Log("vgate.frontend")


class Shedding:
    """Takes connections while `runtime.most_connections` are open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, runtime: Runtime, listener: int) -> None:
        self._loop = loop
        self._most = runtime.most_connections
        self._socket = socket.socket(fileno=os.dup(listener))
        self._tls = _tls_context(runtime.config.server.tls)
        self._answering: set[asyncio.Task[None]] = set()
        self._accepting = self._ended = False
        self._count = 0
        self._told_at = -_TELL_EVERY_S

    def begin(self) -> None:
        """Look from now on whether there is room."""
        self._look()

    def end(self, then: Callable[[], None]) -> None:
        """Take no more, since another process serves on the socket, and go on with `then`."""
        self._ended = True
        self._take(False)
        then()

    def _look(self) -> None:
        if self._ended:
            return
        self._loop.call_later(_LOOK_S, self._look)
        self._take(self._is_full())
        if self._count and self._loop.time() - self._told_at >= _TELL_EVERY_S:
            self._told_at = self._loop.time()
            log.warning(
                "connections were refused: few files may be open (ulimit -n)",
                count=self._count,
                most=self._most,
            )
            self._count = 0

    def _is_full(self) -> bool:
        try:
            # Since Linux 6.2 its size is the number of files, which spares a look at each; before
            # it is 0.
            files = OPEN_FILES.stat().st_size or sum(1 for _ in OPEN_FILES.iterdir())
            if files < self._most:
                return False
            port = self._socket.getsockname()[1]
            return connections_to(port) - len(self._answering) >= self._most
        except OSError:  # no file more may be open
            return False

    def _take(self, wanted: bool) -> None:
        wanted = wanted and len(self._answering) < SHED_AT_ONCE
        if wanted and not self._accepting:
            self._loop.add_reader(self._socket, self._accept)
        elif self._accepting and not wanted:
            self._loop.remove_reader(self._socket)
        self._accepting = wanted

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:  # granian was quicker
            return
        except OSError:  # not even for this one is there room: look again
            self._take(False)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._answer(connection))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        self._take(True)

    async def _answer(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(_LONGEST_HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = None
        # A client that is gone, slow or speaks something else is no concern here.
        with contextlib.suppress(OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_PATIENCE_S):
                try:
                    transport, _ = await self._loop.connect_accepted_socket(
                        lambda: protocol, connection, ssl=self._tls
                    )
                    head = await reader.readuntil(b"\r\n\r\n")
                    path = [*head.split(b" ", 2), b""][1].decode(errors="replace")
                    transport.write(_response(path.partition("?")[0]))
                    self._count += 1
                    if transport.can_write_eof():
                        transport.write_eof()
                    # Closed with a body unread, the connection would be reset under the answer.
                    while await reader.read(_LONGEST_HEAD_BYTES):
                        pass
                finally:
                    (connection if transport is None else transport).close()


def _tls_context(tls: Tls) -> ssl.SSLContext | None:
    if tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _response(path: str) -> bytes:
    if path == "/health":
        status, headers, body = "200 OK", "", HEALTHY
    else:
        error = OverloadedError(
            "the server has no room for more connections; try again, and close those that are idle",
            retry_after_s=1,
        )
        status, headers = "503 Service Unavailable", "retry-after: 1\r\n"
        of_anthropic = path.startswith("/v1/messages")
        body = anthropic.error_body(error, "") if of_anthropic else openai.error_body(error)
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode() + body
