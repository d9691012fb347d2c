"""`Client` and `AsyncClient`: OpenAI's clients with V-Gate's additions."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import httpx2
import openai

from vgate.client import settings
from vgate.client.http import AsyncHttpClient, HttpClient
from vgate.client.settings import CacheMode, NotReadyError

Rows = list[dict[str, Any]]
_POLL_S = 0.5
_PROBE_S = 5.0


class _VGate:
    """What both clients share. It is a base before OpenAI's class, whose `__init__` it calls."""

    # The class of the HTTP client; it takes `retry_for_s`.
    _HTTP: Callable[[float], Any]

    def __init__(
        self,
        base_url: Any = None,
        api_key: Any = None,
        *,
        cache: CacheMode = "default",
        resume: bool = True,
        retry_for_s: float = 120.0,
        http_client: Any = None,
        default_headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._http: Any = http_client or self._HTTP(retry_for_s)
        super().__init__(  # type: ignore[call-arg]
            base_url=settings.base_url(base_url),
            api_key=settings.api_key(api_key),
            http_client=self._http,
            default_headers=_headers(cache, default_headers, resume=resume),
            **options,
        )

    def with_cache(self, mode: CacheMode) -> Self:
        """Return this client with another use of the result cache."""
        client: Any = self
        headers = {"Cache-Control": "", **settings.cache_headers(mode)}
        return cast("Self", client.with_options(default_headers=headers))

    def cache_status(self, answer: Any) -> str | None:
        """Return how the cache was used for an answer: hit, miss, coalesced or bypass.

        None if that isn't known: it is the answer of another client, or a long time ago.
        """
        patience = getattr(self._http, "patience", None)
        return settings.status_of(answer, patience.noted if patience else {})


class Client(_VGate, openai.OpenAI):
    """OpenAI's client for a V-Gate server.

    Args:
        base_url: The server's; without one, VGATE_BASE_URL or OPENAI_BASE_URL, or port 8000 of this
            machine. `/v1` may be left out.
        api_key: Without one, VGATE_API_KEY or OPENAI_API_KEY.
        cache: How requests use the result cache: as ever, for a new answer ("refresh"), or for a
            new one that isn't stored either ("off").
        resume: Whether a stream goes on by itself when its connection breaks. A stream that is
            closed early is then generated on for the seconds that the server keeps it.
        retry_for_s: How long a request is sent again while the server says when (Retry-After).
        options: All others are OpenAI's.
    """

    _HTTP = HttpClient

    def ready(self, timeout: float = 60.0, show: Callable[[str], object] | None = None) -> None:
        """Wait until the server would serve a request.

        Args:
            timeout: Seconds.
            show: Called with the reason why it wouldn't, each time that this is another one.

        Raises:
            NotReadyError: It took longer.
        """
        waiting = _Waiting(timeout, show)
        while waiting.goes_on(self._reason()):
            time.sleep(_POLL_S)

    def usage(
        self, *, by: str | None = None, since: str | None = None, until: str | None = None
    ) -> Rows:
        """Return what was used, a row for each key, model and day, or what `by` names of these.

        `since` and `until` are days such as 2026-01-31.
        """
        options: Any = {"params": settings.usage_query(by, since, until)}
        found: Any = self.get("/usage", cast_to=object, options=options)
        return list(found["data"])

    def stats(self) -> dict[str, Any]:
        """Return the server's `/stats`."""
        found: Any = self.get(f"{settings.root_of(self.base_url)}/stats", cast_to=object)
        return dict(found)

    def _reason(self) -> str | None:
        url = f"{settings.root_of(self.base_url)}/ready"
        try:
            response = self._http.get(url, headers=self.auth_headers, timeout=_PROBE_S)
            return settings.reason_of(response.status_code, _json(response))
        except httpx2.TransportError as error:
            return f"{url} can't be reached: {error}"


class AsyncClient(_VGate, openai.AsyncOpenAI):
    """OpenAI's asynchronous client for a V-Gate server; otherwise as `Client`."""

    _HTTP = AsyncHttpClient

    async def ready(
        self,
        timeout: float = 60.0,  # noqa: ASYNC109 - as the other client's
        show: Callable[[str], object] | None = None,
    ) -> None:
        """Wait until the server would serve a request; as `Client.ready`."""
        waiting = _Waiting(timeout, show)
        while waiting.goes_on(await self._reason()):  # noqa: ASYNC110 - the event is elsewhere
            await asyncio.sleep(_POLL_S)

    async def usage(
        self, *, by: str | None = None, since: str | None = None, until: str | None = None
    ) -> Rows:
        """Return what was used; as `Client.usage`."""
        options: Any = {"params": settings.usage_query(by, since, until)}
        found: Any = await self.get("/usage", cast_to=object, options=options)
        return list(found["data"])

    async def stats(self) -> dict[str, Any]:
        """Return the server's `/stats`."""
        found: Any = await self.get(f"{settings.root_of(self.base_url)}/stats", cast_to=object)
        return dict(found)

    async def _reason(self) -> str | None:
        url = f"{settings.root_of(self.base_url)}/ready"
        try:
            response = await self._http.get(url, headers=self.auth_headers, timeout=_PROBE_S)
            return settings.reason_of(response.status_code, _json(response))
        except httpx2.TransportError as error:
            return f"{url} can't be reached: {error}"


class _Waiting:
    """A wait for a server, by its reasons for not being ready."""

    def __init__(self, timeout_s: float, show: Callable[[str], object] | None) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._show = show
        self._shown: str | None = None

    def goes_on(self, reason: str | None) -> bool:
        """Return whether to wait on; raise NotReadyError if the time is up."""
        if reason is None:
            return False
        if self._show is not None and reason != self._shown:
            self._shown = reason
            self._show(reason)
        if time.monotonic() + _POLL_S > self._deadline:
            message = f"not ready after {self._timeout_s:g} s: {reason}"
            raise NotReadyError(message)
        return True


def _headers(cache: CacheMode, given: Mapping[str, str] | None, *, resume: bool) -> dict[str, str]:
    """Return the headers of all requests; a copy of a client is given those that it had."""
    own = {settings.RESUMABLE: "true" if resume else "false", **settings.cache_headers(cache)}
    return {**own, **(given or {})}


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
