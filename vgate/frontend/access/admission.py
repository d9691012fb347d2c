"""Access for all requests of a process, and the admission of one: its key and its limits."""

import asyncio
import math
import time
from pathlib import Path
from typing import Any, Self

import msgspec

from vgate.config.schema import Security
from vgate.errors import LimitsUnavailableError, RateLimitedError
from vgate.frontend.access.authentication import Authentication, KeySource
from vgate.frontend.access.limiter import Decision, Grant, KeyLimits, Limiter
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey, KeyRing
from vgate.log import Log

_REASONS = {
    "requests": "too many requests",
    "tokens": "too many tokens",
    "concurrent": "too many requests at once",
}
_RETRY_AFTER_S = 5.0
_NO_LIMITS = KeyLimits()

# Stands for the client where no key is required.
NOBODY = ApiKey(name="", sha256="")

log = Log("vgate.frontend")


class Access:
    """Finds the key of each request, and the limits of that key.

    Args:
        loop: The event loop.
        security: The configuration's section. If it is not enabled, every request is let in.
        kept_keys: The file of the last valid keys.
        limiter: Counts what keys use; closed with this.
        isolate_keys: Whether what is cached is shared only within a key or a group of keys.

    Raises:
        KeysError: There are no valid keys.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        security: Security,
        kept_keys: Path,
        limiter: Limiter,
        *,
        isolate_keys: bool = True,
    ) -> None:
        self._limiting = security.rate_limiting
        self._exempt = frozenset(security.exempt_paths)
        self._limiter = limiter
        self._isolates = security.enabled and isolate_keys
        # By the names of the keys in force.
        self._limits: dict[str, KeyLimits] = {}
        self._authentication: Authentication | None = None
        if security.enabled:
            source = KeySource(security, kept_keys)
            self._authentication = Authentication(loop, source, self._on_keys)

    def admission(self, http: HttpRequest) -> "Admission":
        """Return a request's admission; nothing is counted yet.

        Its key has no name if the path or the server is open to all.

        Raises:
            AuthenticationError: The request carries no valid key.
        """
        if self._authentication is None or http.path in self._exempt:
            key, limits = NOBODY, _NO_LIMITS
        else:
            key = self._authentication.key_of(http)
            limits = self._limits[key.name]
        scope = _scope_of(key) if self._isolates else ""
        return Admission(self._limiter, key, limits, http.response_headers, scope)

    def sees_all(self, http: HttpRequest) -> bool:
        """Whether a request may be told of all keys: it has an admin's, or there are none."""
        if self._authentication is None:
            return True
        key = self._authentication.find(http)
        return key is not None and key.admin

    async def usage(self, http: HttpRequest) -> list[dict[str, Any]]:
        """Return what each key that a request may be told of uses of its limits, in all workers."""
        found = []
        every = self.sees_all(http)
        for key in self._authentication.keys if self._authentication else ():
            if not every and key.name != http.admission.key.name:
                continue
            limits = self._limits[key.name]
            used = await self._limiter.usage(key.name, limits)
            found.append(
                {
                    "key": key.name,
                    "requests": used.requests,
                    "rate_limit": limits.requests,
                    "window_s": limits.window_s,
                    "tokens": used.tokens,
                    "tokens_per_minute": limits.tokens_per_minute,
                    "concurrent": used.concurrent,
                    "concurrent_limit": limits.concurrent,
                }
            )
        return found

    def close(self) -> None:
        """Stop following keys and release the counts."""
        if self._authentication is not None:
            self._authentication.close()
        self._limiter.close()

    def _on_keys(self, keys: KeyRing) -> None:
        self._limits = {key.name: self._limits_of(key) for key in keys}
        for name in self._limits:
            metrics.show_zeros_of_key(name)

    def _limits_of(self, key: ApiKey) -> KeyLimits:
        limiting = self._limiting
        if not limiting.enabled:
            return _NO_LIMITS
        return KeyLimits(
            requests=key.rate_limit or limiting.default_limit,
            window_s=limiting.window_seconds,
            tokens_per_minute=key.tokens_per_minute or limiting.default_tokens_per_minute,
            concurrent=key.concurrent or limiting.default_concurrent,
        )


class Admission(msgspec.Struct):
    """One request and the limits of its key: ``async with`` it for as long as the request runs.

    Each decision is a critical section that all workers share, so there is only one where possible:
    as soon as the tokens are known, or at the end of a request that used none. Leaving settles what
    was granted. `begin`, `reserve` and `count` decide.

    Attributes:
        key: The key that the request carries. Its counts go by its name, so that a rotated key
            keeps them.
        headers: The response's headers, to which each decision adds the state of the limits.
        scope: What is cached is shared only with requests of the same one.
        is_counted: Whether the request was counted before.

    Raises:
        RateLimitedError: A decision was against the request, which does not count at all then.
        LimitsUnavailableError: The limiter could not decide.
    """

    limiter: Limiter
    key: ApiKey
    limits: KeyLimits
    headers: dict[str, str]
    scope: str = ""
    grant: Grant | None = None
    used_tokens: int | None = None
    is_counted: bool = False

    def continues(self) -> None:
        """Note that the request takes up an earlier one's stream, and counts with that one.

        Tokens and requests at a time count as ever.
        """
        self.is_counted = True
        self.limits = msgspec.structs.replace(self.limits, requests=None)

    async def begin(self, *, wait: bool) -> None:
        """Decide on the request now or, with `wait`, when its tokens are known or at its end.

        A request that would be refused with any number of tokens does not wait.
        """
        if self.is_counted:
            return
        try:
            if wait and not self.limiter.likely_full(self.key.name, self.limits):
                return
        except OSError as error:
            raise _unavailable(error) from None
        await self.reserve(0)

    async def reserve(self, tokens: int, *, runs: bool = True) -> None:
        """Reserve the most tokens that the request may use, and count the request if it was not.

        Args:
            tokens: The number of tokens.
            runs: Whether the request still runs.
        """
        if self.limits.unlimited:
            return
        try:
            if self.grant is None:
                name = self.key.name
                self.grant = await self.limiter.reserve(name, self.limits, tokens, runs=runs)
                decision = self.grant.decision
            else:
                decision = await self.grant.reserve(tokens)
        except OSError as error:
            raise _unavailable(error) from None
        _add_headers(self.headers, decision)
        if not decision.allowed:
            raise _refusal(self.key, decision)

    async def count(self) -> None:
        """Count a request that was answered without using tokens, if it was not counted."""
        if self.grant is None and not self.is_counted:
            await self.reserve(0, runs=False)

    def settle(self, used_tokens: int) -> None:
        """Set the tokens that the request used. They replace the reserved ones at its end."""
        self.used_tokens = used_tokens

    async def abandon(self) -> None:
        """End the request as if it had not been made."""
        if self.grant is not None:
            try:
                await self.grant.abandon()
            except OSError as error:
                log.error("could not abandon a request", key=self.key.name, reason=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, _error: object, _traceback: object) -> None:
        if self.grant is not None:
            try:
                await self.grant.settle(self.used_tokens)
            except OSError as error:  # the request was answered all the same
                log.error("could not settle a request", key=self.key.name, reason=error)


def _scope_of(key: ApiKey) -> str:
    return f"group {key.group}" if key.group is not None else f"key {key.name}"


def _add_headers(headers: dict[str, str], decision: Decision) -> None:
    """Report the limits in headers: with the earlier V-Gate's names, and OpenAI's."""
    now = time.time()
    if quota := decision.requests:
        headers["x-ratelimit-limit"] = limit = str(quota.limit)
        headers["x-ratelimit-remaining"] = remaining = str(quota.remaining)
        headers["x-ratelimit-reset"] = str(math.ceil(quota.reset_at))
        headers["x-ratelimit-limit-requests"] = limit
        headers["x-ratelimit-remaining-requests"] = remaining
        headers["x-ratelimit-reset-requests"] = f"{max(0.0, quota.reset_at - now):.3f}s"
    if quota := decision.tokens:
        headers["x-ratelimit-limit-tokens"] = str(quota.limit)
        headers["x-ratelimit-remaining-tokens"] = str(quota.remaining)
        headers["x-ratelimit-reset-tokens"] = f"{max(0.0, quota.reset_at - now):.3f}s"


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
