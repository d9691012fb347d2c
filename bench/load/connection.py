"""The client side of HTTP/1.1 connections, on the event loop's transport, and their pool."""

import asyncio
import resource
import ssl
from http import HTTPStatus
from time import perf_counter
from typing import cast

import httptools

from bench.load.answer import BAD_HTTP, TIMEOUT, Answer
from bench.load.options import UsageError
from bench.load.target import Target, request_head

# Below the shortest keep-alive limit in common use (5 s): a request must not meet a server that
# is just hanging up.
_MAX_IDLE_S = 3.0
_CONNECT_TIMEOUT_S = 10.0
# A listening socket's queue may be as short as 128, and what overflows it waits for a second.
_MAX_CONNECTING = 64
_SPARE_FILES = 64


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
        """Parse the data; all data of one read has the same arrival time."""
        if self._answer is None:  # data without a request: the server is not usable
            self.close()
            return
        self._now = perf_counter()
        if self._answer.take_plain(data, self._now):
            return
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


class Pool:
    """Idle connections, the last one used first."""

    def __init__(self, target: Target, *, keepalive: bool) -> None:
        self._target = target
        self._address = target.addresses[0]
        self._tls: ssl.SSLContext | None = target.tls_context()
        self._keepalive = keepalive
        self._idle: list[Connection] = []
        self._connecting = asyncio.Semaphore(_MAX_CONNECTING)

    async def find_address(self) -> None:
        """Settle on the first of the target's addresses that accepts a connection.

        Raises:
            UsageError: none does.
        """
        reason = "it has no address"
        for address in self._target.addresses:
            self._address = address
            try:
                self.give(await self.open())
            except (OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            else:
                return
        raise UsageError(f"cannot connect to {self._target.authority}: {reason}")

    async def open(self) -> Connection:
        """Open a connection."""
        host = self._target.host if self._tls else None
        loop = asyncio.get_running_loop()
        async with self._connecting, asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                Connection, self._address, self._target.port, ssl=self._tls, server_hostname=host
            )
        return connection

    async def take(self) -> Connection:
        """Return an idle connection, or a new one."""
        oldest = perf_counter() - _MAX_IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return await self.open()

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        if self._keepalive and connection.usable:
            connection.idle_since = perf_counter()
            self._idle.append(connection)
        else:
            connection.close()

    async def prepare(self, count: int) -> None:
        """Open that many connections, where they can be opened and will be reused."""
        if not self._keepalive:
            return
        missing = count - len(self._idle)
        opened = await asyncio.gather(
            *(self.open() for _ in range(missing)), return_exceptions=True
        )
        for connection in opened:
            if isinstance(connection, Connection):
                self.give(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes,
        answer: Answer,
        *,
        key: str | None = None,
        limit_s: float,
    ) -> None:
        """Send a request, with an API key; return once its answer has ended, however it did."""
        headers = [("Authorization", f"Bearer {key}")] if key else []
        head = request_head(method, self._target, path, headers)
        request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        connection = await self.take()
        try:
            await connection.exchange(request, answer, limit_s)
        finally:
            self.give(connection)

    async def get(self, path: str, headers: list[tuple[str, str]], timeout_s: float) -> Answer:
        """Send a GET request and return its answer."""
        answer = Answer(perf_counter())
        connection = await self.take()
        head = request_head("GET", self._target, path, headers)
        await connection.exchange(head + b"\r\n", answer, timeout_s)
        self.give(connection)
        return answer


def allow_files(count: int) -> None:
    """Raise this process's limit of open files towards that many connections.

    Raises:
        UsageError: the hard limit is below it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(f"{count} connections need {needed} open files; the limit is {hard}")
    if needed > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
