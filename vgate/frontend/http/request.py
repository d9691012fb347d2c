"""HTTP as endpoints see it, and the only file that knows RSGI.

RSGI facts that this file takes care of: a stream's ``send_bytes`` accepts at once and never waits
for the client (so the callback of a step may write, and a slow reader's bytes wait in granian,
bounded by the length of its answer); ``client_disconnect`` is a future that must be cancelled by
whoever asked for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from vgate.errors import PayloadTooLargeError, RequestTimeoutError
from vgate.frontend.http.deadlines import Deadlines
from vgate.frontend.http.disconnects import ClientDisconnected, DisconnectWatch
from vgate.frontend.ids import new_id

JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")

# What is still read of a body that is too large, so that the client gets to see the answer: a
# connection that is closed while the client sends shows it a reset instead.
_DISCARD_BYTES = 64 * 1024 * 1024
# A body of so many bytes comes with its headers, or nearly.
_SMALL_BYTES = 64 * 1024
_BODY_TIMEOUT_S = 60
_DISCARD_TIMEOUT_S = 5
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Headers = list[tuple[str, str]]


class RSGIHeaders(Protocol):
    """A request's headers."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a header by its lower-case name."""


class RSGIScope(Protocol):
    """What is known of a request before its body."""

    proto: str
    method: str
    path: str
    client: str
    headers: RSGIHeaders


class Response(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    body: bytes
    headers: Headers = []


class OpenStream:
    """A response whose body is still being written."""

    __slots__ = ("_send",)

    def __init__(self, transport: Any) -> None:
        self._send = transport.send_bytes

    def write(self, data: bytes) -> None:
        """Send without waiting; after the client left it does nothing."""
        self._send(data)

    def close(self) -> None:
        """End the body. granian ends it when the transport is freed, so let go of it now."""
        self._send = _discard


def _discard(_data: bytes) -> None:
    """Write to a stream that has ended."""


class Waits(msgspec.Struct, frozen=True):
    """What a worker's requests share while they wait for their clients."""

    disconnects: DisconnectWatch
    deadlines: Deadlines


class HttpRequest:
    """One request, handled by the task that it is made in.

    Attributes:
        id: The client's ``X-Request-ID``, or ours.
        method: The method, upper case.
        path: The path, percent-decoded: it may hold any character.
        arrived: Monotonic time of its arrival, in seconds.
        response_headers: Headers that the response carries, by lower-case names.
        admission: What the request may use, as `vgate.frontend.access` has decided. HTTP only
            carries it from there to the endpoint.
        log_fields: What is logged about the request, in one line at its end.
    """

    __slots__ = (
        "_body_taken",
        "_deadlines",
        "_declared",
        "_disconnect",
        "_disconnects",
        "_header",
        "_on_disconnect",
        "_protocol",
        "_stream",
        "_task",
        "admission",
        "arrived",
        "id",
        "log_fields",
        "method",
        "path",
        "response_headers",
    )

    def __init__(
        self, scope: RSGIScope, protocol: Any, waits: Waits, task: asyncio.Task[Any]
    ) -> None:
        self.arrived = time.monotonic()
        self._header = scope.headers.get
        self.method = scope.method
        self.path = scope.path
        self._protocol = protocol
        self._disconnects = waits.disconnects
        self._deadlines = waits.deadlines
        self._task = task
        self._on_disconnect: Callable[[], None] | None = None
        self._body_taken = False
        self._declared: float | None = None
        self._disconnect: Any = None
        self._stream: OpenStream | None = None
        self.response_headers: dict[str, str] = {}
        self.admission: Any = None
        self.log_fields: dict[str, Any] = {}
        given = self.header("x-request-id")
        valid = given is not None and _REQUEST_ID.fullmatch(given)
        self.id = given if given is not None and valid else new_id("req-")

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name."""
        value: str | None = self._header(name)
        return value

    @property
    def is_small_body(self) -> bool:
        """Whether its body is said to be so small that reading it first costs nobody much."""
        return self._declared_bytes() <= _SMALL_BYTES

    def _declared_bytes(self) -> float:
        """Return the length that the client gave its body; infinity if it gave none."""
        declared = self._declared
        if declared is None:
            length = self.header("content-length")
            known = length is not None and length.isdigit()
            declared = self._declared = int(length or 0) if known else math.inf
        return declared

    async def body(self, limit_bytes: int) -> bytes:
        """Read the whole body.

        Raises:
            PayloadTooLargeError: It is longer than the limit.
            RequestTimeoutError: It did not come in time.
            ClientDisconnected: The client left before it had sent all of it.
        """
        self._body_taken = True
        self._deadlines.begin(self._task, _BODY_TIMEOUT_S)
        try:
            if self._declared_bytes() <= limit_bytes:
                body: bytes = await self._protocol()
                return body
            return await self._body_in_chunks(limit_bytes)
        except ProtocolClosed:
            raise ClientDisconnected from None
        finally:
            if self._deadlines.end(self._task):
                message = f"the request body did not arrive within {_BODY_TIMEOUT_S} s"
                raise RequestTimeoutError(message) from None

    async def discard_body(self) -> None:
        """Read a body that nobody wants, so that the connection can carry another request.

        Without that, hyper closes the connection after the answer and tells nobody before: the
        client sends its next request in vain. What is too much to read is at least announced.
        """
        if self._body_taken or not self._has_body():
            return
        self._body_taken = True
        if self.header("expect") is not None or not await self._discarded():
            self.set_header("connection", "close")

    async def _discarded(self) -> bool:
        """Read the body; False if it was too much or came too late."""
        size = 0
        self._deadlines.begin(self._task, _DISCARD_TIMEOUT_S)
        try:
            async for chunk in self._protocol:
                size += len(chunk)
                if size > _DISCARD_BYTES:
                    return False
        except ProtocolClosed:
            return False
        except asyncio.CancelledError:
            if self._deadlines.end(self._task):
                return False
            raise
        finally:
            self._deadlines.end(self._task)
        return True

    def _has_body(self) -> bool:
        length = self.header("content-length")
        return self.header("transfer-encoding") is not None or length not in {None, "0"}

    async def _body_in_chunks(self, limit_bytes: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in self._protocol:
            size += len(chunk)
            if size <= limit_bytes:
                chunks.append(chunk)
            elif size > _DISCARD_BYTES:
                break
            else:
                chunks.clear()
        if size > limit_bytes:
            message = f"the body must be at most {limit_bytes} bytes (server.max_body_bytes)"
            raise PayloadTooLargeError(message)
        return b"".join(chunks)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Have `callback` called if the client leaves before `release`."""
        self._on_disconnect = callback
        self._disconnects.add(self)

    def watch(self) -> None:
        """Begin to watch the client. Called by `DisconnectWatch`."""
        future = self._disconnect = self._protocol.client_disconnect()

        def left(_future: object) -> None:
            if self._disconnect is not None and self._on_disconnect is not None:
                self._on_disconnect()

        future.add_done_callback(left, context=contextvars.copy_context())

    def release(self) -> None:
        """Stop watching the client. The future would outlive the request otherwise."""
        if self._on_disconnect is None:
            return
        self._on_disconnect = None
        self._disconnects.discard(self)
        if self._disconnect is not None:
            # Cancelling calls the callback too; it must not take that for the client's leaving.
            future, self._disconnect = self._disconnect, None
            future.cancel()

    def set_header(self, name: str, value: str) -> None:
        """Have the response carry a header; `name` is lower case."""
        self.response_headers[name] = value

    def respond(self, response: Response) -> None:
        """Send a whole response."""
        self._protocol.response_bytes(
            response.status, self._all_headers(response.headers), response.body
        )

    def open_stream(self, headers: Headers) -> OpenStream:
        """Send status 200 and headers, and leave the body open."""
        transport = self._protocol.response_stream(200, self._all_headers(headers))
        self._stream = OpenStream(transport)
        return self._stream

    def _all_headers(self, headers: Headers) -> Headers:
        return [*headers, *self.response_headers.items(), ("x-request-id", self.id)]

    @property
    def streamed(self) -> bool:
        """Whether the answer was a stream."""
        return self._stream is not None

    def close(self) -> None:
        """End what is open: the stream, and the watch over the client."""
        self.release()
        if self._stream is not None:
            self._stream.close()
