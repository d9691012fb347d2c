"""What an API key grants to one request, and the headers that report its limits."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from vgate.errors import LimitsUnavailableError, RateLimitedError
from vgate.frontend.access.limiter.port import Decision, Grant, KeyLimits, Limiter, Quota
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey
from vgate.log import Log

_REASONS = {
    "requests": "too many requests",
    "tokens": "too many tokens",
    "concurrent": "too many requests at once",
}
_RETRY_AFTER_S = 5.0

log = Log("vgate.frontend")


class Admission:
    """One request and the limits of its key: ``async with`` it for as long as the request runs.

    Each decision is a critical section that all workers share, so a request is decided on once
    where possible: with its tokens, as soon as they are known, or at its end, if it used none.
    Leaving settles what was granted, once, whatever happened.

    Args:
        limiter: The counts.
        key: Whose request it is.
        limits: The limits of that key.
        headers: Where each decision puts the response's headers.

    Attributes:
        key: Whose request it is.
    """

    __slots__ = ("_grant", "_headers", "_key_id", "_limiter", "_limits", "_used_tokens", "key")

    def __init__(
        self, limiter: Limiter, key: ApiKey, limits: KeyLimits, headers: dict[str, str]
    ) -> None:
        self._limiter = limiter
        self._key_id = key_id(key)
        self._limits = limits
        self._headers = headers
        self._grant: Grant | None = None
        self._used_tokens: int | None = None
        self.key = key

    async def begin(self, *, wait: bool) -> None:
        """Decide on the request now or, with `wait`, when its tokens are known or at its end.

        A request that would be refused whatever tokens it may use does not wait.

        Raises:
            RateLimitedError: A limit refuses it.
            LimitsUnavailableError: The limiter failed.
        """
        try:
            if wait and not self._limiter.likely_full(self._key_id, self._limits):
                return
        except OSError as error:
            raise _unavailable(error) from None
        await self.reserve(0)

    async def reserve(self, tokens: int) -> None:
        """Reserve the most tokens that the request may use; count the request if it was not.

        Raises:
            RateLimitedError: A limit refuses it. It does not count at all then.
            LimitsUnavailableError: The limiter failed.
        """
        await self._decide(tokens, runs=True)

    async def count(self) -> None:
        """Count a request that has used no tokens and is answered, if it was not counted.

        Raises:
            RateLimitedError: A limit refuses it.
            LimitsUnavailableError: The limiter failed.
        """
        if self._grant is None:
            await self._decide(0, runs=False)

    def settle(self, used_tokens: int) -> None:
        """Set the tokens that the request has used. They replace the reserved ones at its end."""
        self._used_tokens = used_tokens

    async def abandon(self) -> None:
        """End the request as if it had not been made."""
        if self._grant is not None:
            try:
                await self._grant.abandon()
            except OSError as error:
                log.error("could not abandon a request", key=self.key.name, reason=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._grant is not None:
            try:
                await self._grant.settle(self._used_tokens)
            except OSError as failed:  # the request was answered all the same
                log.error("could not settle a request", key=self.key.name, reason=failed)

    async def _decide(self, tokens: int, *, runs: bool) -> None:
        if self._limits.unlimited:
            return
        try:
            if self._grant is None:
                self._grant = await self._limiter.reserve(
                    self._key_id, self._limits, tokens, runs=runs
                )
                decision = self._grant.decision
            else:
                decision = await self._grant.reserve(tokens)
        except OSError as error:
            raise _unavailable(error) from None
        self._headers.update(limit_headers(decision))
        if not decision.allowed:
            raise _refusal(self.key, decision)


def key_id(key: ApiKey) -> str:
    """Return the name of a key's counts: they stay with the name when the key is rotated."""
    return f"key:{key.name}"


def limit_headers(decision: Decision) -> list[tuple[str, str]]:
    """Return headers that report the limits: the earlier V-Gate's names, and OpenAI's."""
    headers: list[tuple[str, str]] = []
    now = time.time()
    if quota := decision.requests:
        limit, remaining = str(quota.limit), str(quota.remaining)
        headers += (
            ("x-ratelimit-limit", limit),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", str(math.ceil(quota.reset_at))),
            ("x-ratelimit-limit-requests", limit),
            ("x-ratelimit-remaining-requests", remaining),
            ("x-ratelimit-reset-requests", _seconds_to(quota, now)),
        )
    if quota := decision.tokens:
        headers += (
            ("x-ratelimit-limit-tokens", str(quota.limit)),
            ("x-ratelimit-remaining-tokens", str(quota.remaining)),
            ("x-ratelimit-reset-tokens", _seconds_to(quota, now)),
        )
    return headers


def _seconds_to(quota: Quota, now: float) -> str:
    return f"{max(0.0, quota.reset_at - now):.3f}s"


def _refusal(key: ApiKey, decision: Decision) -> RateLimitedError:
    reason = decision.reason or "requests"
    metrics.RATE_LIMITED.labels(key.name, reason).inc()
    limit = _REASONS[reason]
    if decision.never:
        message = f"the request may use more tokens than the key's limit allows at all ({limit})"
    else:
        message = f"{limit} for this API key; try again in {decision.retry_after_s or 1:.0f} s"
    return RateLimitedError(message, retry_after_s=decision.retry_after_s)


def _unavailable(error: OSError) -> LimitsUnavailableError:
    log.error("a request could not be counted", reason=error)
    return LimitsUnavailableError(
        "the limits of this API key can't be checked now", retry_after_s=_RETRY_AFTER_S
    )
