"""A request, its response, and the only use of RSGI.

RSGI facts that this file takes care of: a stream's ``send_bytes`` returns at once and never waits
for the client (so the callback of a step may write, and a slow reader's bytes wait in granian; see
`vgate.frontend.http.unsent`); the future of ``client_disconnect`` must be cancelled by us.
"""

import asyncio
import contextvars
import math
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from vgate.errors import InvalidRequestError, PayloadTooLargeError
from vgate.frontend.http.content_encoding import Pieces, add_chunk
from vgate.frontend.http.ignored import HEADER, Ignored
from vgate.frontend.http.waits import BYTES_PER_BODY_BYTE, Divert, OpenStream, Sending, Waits
from vgate.frontend.ids import new_id

JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")

# We read up to this much of a body that is too large, so that the client sees the response: if the
# connection is closed while the client sends, it sees a reset instead.
_DISCARD_BYTES = 64 * 1024 * 1024
# A body of up to this size comes with its headers, or nearly.
SMALL_BYTES = 64 * 1024
# granian makes a body in one piece, for which nothing else can run: 5 ms and more for 8 MB.
WHOLE_BYTES = 1024 * 1024
# What the kernel takes of an answer, whether or not the client does.
_QUEUED_BYTES = 64 * 1024
_BODY_TIMEOUT_S = 60
_DISCARD_TIMEOUT_S = 5
_SHORT = "the request body is shorter than its Content-Length"
_CUT = "the request body is cut, or has trailers, which are not supported"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Headers = list[tuple[str, str]]


class Response(msgspec.Struct, frozen=True):
    """A complete response."""

    status: int
    body: bytes
    headers: Headers = []


class HttpRequest:
    """One request, handled by the task that it is made in.

    Attributes:
        id, asked_id: The client's ``X-Request-ID`` if it is valid; otherwise a new one, and "".
        header: Returns a header by its lower-case name; None if there is none.
        path: The path, percent-decoded: it may contain any character.
        query: The query string, as the client encoded it.
        arrived, ended: Monotonic times of its arrival and of `close`, in seconds.
        response_headers: Headers of the response, by lower-case names.
        admission: The request's `Admission`. HTTP only carries it from `access/` to the endpoint.
        log_fields: Fields of the line that is logged at the end of the request.
        taken_up: The stream that it takes up, with its `body`, or None. HTTP only carries it.
        trace: The trace of the request; None if it isn't traced. HTTP only carries it.
        early: The stream, if it was opened before there is an answer. HTTP only carries it.
        streams: Whether the client has asked for a stream.
        waited_s: How long the request has waited for its model to be loaded.
        read_body: The body, once it is read.
        is_short: Whether the body, once it is read, is of a kind that takes little time.
        ignored: The fields that have no effect; the response names them.
    """

    __slots__ = (
        "_body_taken",
        "_declared",
        "_disconnect",
        "_held_bytes",
        "_on_disconnect",
        "_protocol",
        "_scope",
        "_sending",
        "_stream",
        "_task",
        "_waits",
        "admission",
        "arrived",
        "asked_id",
        "early",
        "ended",
        "header",
        "id",
        "ignored",
        "is_short",
        "log_fields",
        "method",
        "path",
        "query",
        "read_body",
        "response_headers",
        "streams",
        "taken_up",
        "trace",
        "waited_s",
    )

    def __init__(
        self,
        scope: Any,
        protocol: Any,
        waits: Waits,
        task: asyncio.Task[Any],
        *,
        refuse_unknown: bool = False,
    ) -> None:
        self.arrived = time.monotonic()
        self.header: Callable[[str], str | None] = scope.headers.get
        self.method = scope.method
        self.path = scope.path
        self.query = scope.query_string
        self._scope = scope
        self._protocol = protocol
        self._sending: Sending | None = None
        self._waits = waits
        self._task = task
        self._on_disconnect: Callable[[], None] | None = None
        self._body_taken = False
        self.is_short = True
        self._held_bytes = 0
        self._disconnect: Any = None
        self._stream: OpenStream | None = None
        self.response_headers: dict[str, str] = {}
        self.admission: Any = None
        self.log_fields: dict[str, Any] = {}
        self.taken_up: Any = None
        self.trace: Any = None
        self.early: Any = None
        self.streams = False
        self.waited_s = 0.0
        self.read_body = b""
        self.ignored = Ignored(refuse_unknown=refuse_unknown)
        length = self.header("content-length")
        self._declared = int(length) if length and length.isdigit() else math.inf
        given = self.header("x-request-id")
        self.asked_id = given if given and _REQUEST_ID.fullmatch(given) else ""
        self.id = self.asked_id or new_id("req-")

    @property
    def client(self) -> str:
        """The client's address."""
        return self._waits.client_of(self._scope.client, self._scope.headers.get_all)

    @property
    def is_small_body(self) -> bool:
        """Whether the declared length is so small that reading the body first costs little."""
        return self._declared <= SMALL_BYTES

    async def body(self, most: int) -> Pieces:
        """Read the whole body, of at most so many bytes, in pieces; it may be compressed.

        Raises:
            PayloadTooLargeError: It has more.
            OverloadedError: This worker has no memory for it now.
            RequestTimeoutError: It did not come in time.
            ShuttingDownError: It had not come when a drain ended the waiting for bodies.
            InvalidRequestError: The client ended it too early.
        """
        if self._declared <= most:
            self.hold(int(self._declared))
        self._body_taken = True
        self._waits.deadlines.begin(self._task, _BODY_TIMEOUT_S)
        try:
            if self._declared <= min(most, WHOLE_BYTES):
                return [await self._protocol()]
            return await self._body_in_chunks(most)
        except ProtocolClosed:
            # If it left as well, nobody reads this.
            raise InvalidRequestError(_SHORT) from None
        finally:
            if self._waits.deadlines.end(self._task):
                raise self._waits.deadlines.late_body(_BODY_TIMEOUT_S) from None

    def hold(self, body_bytes: int) -> None:
        """Count memory for so many bytes of a body, until the request is closed.

        Raises:
            OverloadedError: This worker has none now.
        """
        size = BYTES_PER_BODY_BYTE * body_bytes
        self._waits.memory.hold(size)
        self._held_bytes += size

    async def _body_in_chunks(self, limit_bytes: int) -> Pieces:
        pieces: Pieces = []
        is_held = self._declared <= limit_bytes
        size = ends = 0
        async for chunk in self._protocol:
            size += len(chunk)
            ends += not chunk
            if size <= limit_bytes:
                if not is_held:
                    # The rest would not be read if there were no memory for it.
                    self.set_header("connection", "close")
                    self.hold(len(chunk))
                    del self.response_headers["connection"]
                add_chunk(pieces, chunk)
            elif size > _DISCARD_BYTES:
                break
            else:
                pieces.clear()
        if size > limit_bytes:
            message = f"the body must be at most {limit_bytes} bytes (server.max_body_bytes)"
            raise PayloadTooLargeError(message)
        # granian gives an empty chunk for the end, and one for an error or for trailers before it.
        if ends > 1 and self.header("transfer-encoding") is not None:
            raise InvalidRequestError(_CUT)
        if is_held and size < self._declared:
            raise InvalidRequestError(_SHORT)
        return pieces

    async def discard_body(self) -> None:
        """Read a body that no endpoint has read, so that the connection can carry more requests.

        Otherwise hyper closes the connection after the response without notice, and the client
        loses its next request. If there is too much to read, the response announces the close.
        """
        if self._body_taken:
            return
        # In HTTP/2 nothing but its end says whether there is a body.
        if self._declared == 0:
            return
        self._body_taken = True
        if self.header("expect") is not None or not await self._discarded():
            self.set_header("connection", "close")

    async def _discarded(self) -> bool:
        """Read the body; return False if it was too much or came too late."""
        size = 0
        self._waits.deadlines.begin(self._task, _DISCARD_TIMEOUT_S)
        try:
            async for chunk in self._protocol:
                size += len(chunk)
                if size > _DISCARD_BYTES:
                    return False
        except ProtocolClosed:
            return False
        except asyncio.CancelledError:
            if self._waits.deadlines.end(self._task):
                return False
            raise
        finally:
            self._waits.deadlines.end(self._task)
        return True

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` if the client leaves before `release`."""
        self._on_disconnect = callback
        self._waits.disconnects.add(self._watch)

    def _watch(self) -> None:
        future = self._protocol.client_disconnect()
        if not hasattr(future, "add_done_callback"):
            # An earlier watch has heard of it, perhaps as it was cancelled: this is done already.
            if self._on_disconnect is not None:
                self._on_disconnect()
            return
        self._disconnect = future

        def left(done: object) -> None:
            # It comes a little later than `release`, after which there may be another watch.
            if self._disconnect is done and self._on_disconnect is not None:
                self._on_disconnect()

        future.add_done_callback(left, context=contextvars.copy_context())

    def release(self) -> None:
        """Stop watching the client. The future would outlive the request otherwise."""
        if self._on_disconnect is None:
            return
        self._on_disconnect = None
        self._waits.disconnects.discard(self._watch)
        if self._disconnect is not None:
            # Cancelling calls the callback too, which must not take it for a disconnect.
            future, self._disconnect = self._disconnect, None
            future.cancel()

    def set_header(self, name: str, value: str) -> None:
        """Add a header to the response; `name` is lower case."""
        self.response_headers[name] = value

    def respond(self, response: Response) -> None:
        """Send a complete response."""
        if (size := len(response.body)) > _QUEUED_BYTES:
            self._begin_sending(None, size).finish()
        headers, body = self._all_headers(response.headers), response.body
        if self.method == "HEAD":
            # hyper drops a body in HTTP/1 only. In HTTP/2 it breaks the connection for clients.
            headers.append(("content-length", str(size)))
            body = b""
        self._protocol.response_bytes(response.status, headers, body)

    def open_stream(
        self, headers: Headers, divert: Divert | None = None, size: int = 0
    ) -> OpenStream:
        """Send status 200 and headers, and leave the body open.

        `divert` diverts the further writes, if the client falls behind. `size` is that of a body
        that is complete, in bytes.
        """
        self._sending = self._begin_sending(divert, size)
        transport = self._protocol.response_stream(200, self._all_headers(headers))
        self._stream = OpenStream(transport)
        return self._stream

    def _begin_sending(self, divert: Divert | None, size: int) -> Sending:
        begin, client = self._waits.begin_sending, self._scope.client
        return begin(client, self.id, self.arrived, divert, size)

    def _all_headers(self, headers: Headers) -> Headers:
        if self.ignored.names:
            self.response_headers[HEADER] = ", ".join(self.ignored.names)
        if self._waits.leaving and self._scope.http_version != "2":  # that has no such header
            self.response_headers["connection"] = "close"
        return [*headers, *self.response_headers.items(), ("x-request-id", self.id)]

    @property
    def streamed(self) -> bool:
        """Whether the response is a stream."""
        return self._stream is not None

    def close(self) -> None:
        """Close the stream, stop watching the client, and hold no memory."""
        self.ended, self.read_body = time.monotonic(), b""
        self.release()
        self._waits.memory.release(self._held_bytes)
        if self._stream is not None:
            self._stream.close()
        if self._sending is not None:
            self._sending.finish()
