"""A client's side of one HTTP/1.1 connection, straight on the event loop's transport."""

import asyncio
from http import HTTPStatus
from time import perf_counter
from typing import cast

import httptools

from bench.load.answer import BAD_HTTP, TIMEOUT, Answer


class Connection(asyncio.Protocol):
    """Carries one exchange at a time. Everything per chunk happens in `data_received`."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._settled: asyncio.Future[None] | None = None
        self._now = 0.0
        self._content_type = b""
        self._ends_with_connection = False
        self._in_body = False

    @property
    def usable(self) -> bool:
        """Whether another exchange can be sent."""
        return self._transport is not None

    async def exchange(self, request: bytes, answer: Answer, timeout_s: float) -> None:
        """Send a request and return once its answer has ended, however it did."""
        if self._transport is None:
            answer.cut("the connection closed before the request was sent", perf_counter())
            return
        loop = asyncio.get_running_loop()
        settled = self._settled = loop.create_future()
        self._answer = answer
        timer = loop.call_later(timeout_s, self._time_out, timeout_s)
        self._transport.write(request)
        try:
            await settled
        except asyncio.CancelledError:
            self._answer = None
            self.close()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _time_out(self, timeout_s: float) -> None:
        if self._answer is not None:
            self._answer.fail(TIMEOUT, f"no complete answer within {timeout_s:g} s")
            self._answer.ended = perf_counter()
        self._settle()
        self.close()

    def _settle(self) -> None:
        self._answer = None
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Stamp what arrived and parse it: all that one read brings has one arrival time."""
        if self._answer is None:  # nothing was asked: not a server to go on talking to
            self.close()
            return
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._answer is not None:
                self._answer.fail(BAD_HTTP, str(error))
                self._answer.ended = self._now
            self._settle()
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer in flight: whole where the close is its end, else cut."""
        self._transport = None
        if self._answer is None:
            return
        now = perf_counter()
        if self._ends_with_connection and exc is None:
            self._answer.end(now)
        else:
            where = "within" if self._in_body else "before"
            self._answer.cut(f"the connection closed {where} the answer", now)
        self._settle()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Forget the previous response."""
        self._content_type = b""
        self._ends_with_connection = True
        self._in_body = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take note of the type, and of whether the length will be known."""
        name = name.lower()
        if name == b"content-type":
            self._content_type = value
        elif name in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        """Begin the answer, unless the response is an interim one."""
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:
            self._ends_with_connection = False
        elif self._answer is not None:
            self._in_body = True
            self._answer.head(status, self._content_type)

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        if self._answer is not None:
            self._answer.feed(body, self._now)

    def on_message_complete(self) -> None:
        """End the answer, and the connection where the server asks for it."""
        if not self._in_body or self._answer is None:
            return
        self._answer.end(self._now)
        if not self._parser.should_keep_alive():
            self.close()
        self._settle()
