"""The HTTP clients under OpenAI's: they wait as the server says, and go on with broken streams."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, cast

import httpx2
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from vgate.client.events import PASSING, Events, kept_s, pauses, wait_s
from vgate.client.settings import CACHE

_MOST_NOTED = 1000


class _Patience:
    """What both clients know of a request that may be sent again, if the server asks for it."""

    def __init__(self, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self.noted: OrderedDict[str, str] = OrderedDict()

    def deadline(self) -> float:
        return time.monotonic() + self._retry_for_s

    def wait_s(
        self, request: httpx2.Request, response: httpx2.Response, deadline: float
    ) -> float | None:
        """Return how long to wait before the request is sent again; None if it isn't."""
        seconds = wait_s(response.status_code, response.headers)
        if seconds is None or not isinstance(request.stream, httpx2.ByteStream):
            return None
        if time.monotonic() + seconds > deadline:
            # OpenAI's client would wait for up to two minutes, a few times.
            response.headers["x-should-retry"] = "false"
            return None
        return seconds

    def note(self, response: httpx2.Response) -> None:
        """Remember how the cache was used, since a parsed answer has no headers."""
        headers = response.headers
        if (name := headers.get("x-request-id")) and (status := headers.get(CACHE)):
            self.noted[name] = status
            if len(self.noted) > _MOST_NOTED:
                self.noted.popitem(last=False)


def _rest_of(request: httpx2.Request, events: Events) -> httpx2.Request:
    """Return the request for the rest of a stream: the same one if nothing of it has come."""
    if events.last_id is None:
        return request
    headers = events.taking_up(request.headers)
    return httpx2.Request("GET", request.url, headers=headers, extensions=request.extensions)


def _goes_on(response: httpx2.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.startswith("text/event-stream")


def _refusal(error: httpx2.TransportError, response: httpx2.Response) -> httpx2.TransportError:
    error.add_note(f"taking the stream up: {response.status_code} {response.text[:500]}")
    return error


class _Stream:
    """The body of a stream, over as many connections as it takes."""

    def __init__(self, client: Any, request: httpx2.Request, response: httpx2.Response) -> None:
        self._client = client
        self._request = request
        self._kept_s = kept_s(response.headers)
        self._now: Any = response.stream
        # OpenAI's client reads to the end with a second iterator.
        self._events = Events()


class HttpClient(DefaultHttpxClient):
    """An HTTP client of OpenAI's that waits and goes on."""

    def __init__(self, retry_for_s: float, **options: Any) -> None:
        super().__init__(**options)
        self.patience = _Patience(retry_for_s)

    def __del__(self) -> None:
        """Close the connections of a client that nobody has closed, as OpenAI's own does."""
        with suppress(Exception):
            self.close()

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, again if the server asks for it; its stream goes on if it breaks."""
        deadline = self.patience.deadline()
        while True:
            response = super().send(request, **options)
            pause_s = self.patience.wait_s(request, response, deadline)
            if pause_s is None:
                break
            response.close()
            time.sleep(pause_s)
        self.patience.note(response)
        if options.get("stream") and _goes_on(response) and kept_s(response.headers):
            response.stream = _Resuming(self, request, response)
        return response

    def send_once(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request whose answer is a stream, and return what comes."""
        return super().send(request, stream=True)


class _Resuming(_Stream, httpx2.SyncByteStream):
    """A stream of `HttpClient`."""

    def __iter__(self) -> Iterator[bytes]:
        events = self._events
        while True:
            try:
                for data in self._now:
                    if whole := events.feed(data):
                        yield whole
            except httpx2.TransportError as error:
                self.close()
                if events.is_whole:
                    return
                self._now = self._take_up(events, error)
            else:
                if rest := events.cut():
                    yield rest
                return

    def close(self) -> None:
        self._now.close()

    def _take_up(self, events: Events, error: httpx2.TransportError) -> httpx2.SyncByteStream:
        events.cut()
        if events.is_lost:
            raise error
        request = _rest_of(self._request, events)
        for pause_s in pauses(self._kept_s):
            time.sleep(pause_s)
            try:
                response = self._client.send_once(request)
                if _goes_on(response):
                    return cast("httpx2.SyncByteStream", response.stream)
                response.read()
            except httpx2.TransportError:
                continue
            if response.status_code not in PASSING:
                raise _refusal(error, response)
        raise error


class AsyncHttpClient(DefaultAsyncHttpxClient):
    """An asynchronous HTTP client of OpenAI's that waits and goes on."""

    def __init__(self, retry_for_s: float, **options: Any) -> None:
        super().__init__(**options)
        self.patience = _Patience(retry_for_s)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, again if the server asks for it; its stream goes on if it breaks."""
        deadline = self.patience.deadline()
        while True:
            response = await super().send(request, **options)
            pause_s = self.patience.wait_s(request, response, deadline)
            if pause_s is None:
                break
            await response.aclose()
            await asyncio.sleep(pause_s)
        self.patience.note(response)
        if options.get("stream") and _goes_on(response) and kept_s(response.headers):
            response.stream = _AsyncResuming(self, request, response)
        return response

    async def send_once(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request whose answer is a stream, and return what comes."""
        return await super().send(request, stream=True)


class _AsyncResuming(_Stream, httpx2.AsyncByteStream):
    """A stream of `AsyncHttpClient`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        events = self._events
        while True:
            try:
                async for data in self._now:
                    if whole := events.feed(data):
                        yield whole
            except httpx2.TransportError as error:
                await self.aclose()
                if events.is_whole:
                    return
                self._now = await self._take_up(events, error)
            else:
                if rest := events.cut():
                    yield rest
                return

    async def aclose(self) -> None:
        await self._now.aclose()

    async def _take_up(
        self, events: Events, error: httpx2.TransportError
    ) -> httpx2.AsyncByteStream:
        events.cut()
        if events.is_lost:
            raise error
        request = _rest_of(self._request, events)
        for pause_s in pauses(self._kept_s):
            await asyncio.sleep(pause_s)
            try:
                response = await self._client.send_once(request)
                if _goes_on(response):
                    return cast("httpx2.AsyncByteStream", response.stream)
                await response.aread()
            except httpx2.TransportError:
                continue
            if response.status_code not in PASSING:
                raise _refusal(error, response)
        raise error
