"""Who may use the server, and how much: keys and limits, for one frontend process."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from vgate.config.schema import Security
from vgate.errors import AuthenticationError, RateLimitedError
from vgate.frontend.access.admission import Admission, key_id
from vgate.frontend.access.keys import KeySource
from vgate.frontend.access.limiter.local import Decision, KeyLimits, Limiter
from vgate.frontend.http.request import HttpRequest
from vgate.frontend.observe import metrics
from vgate.keys import ApiKey, KeyRing, KeysError
from vgate.log import Log

_POLL_S = 0.25
_SCHEME = "bearer "

log = Log("vgate.frontend")


class Access:
    """Authenticates and limits; without security it lets everybody in.

    Args:
        loop: The event loop.
        security: The configuration's section.
        limiter: The shared counts.
        kept_keys: Where the last good keys are kept.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        security: Security,
        limiter: Limiter,
        kept_keys: Path,
    ) -> None:
        self._loop = loop
        self._security = security
        self._limiter = limiter
        self._exempt = frozenset(security.exempt_paths)
        self._source = KeySource(security, kept_keys)
        # By the names of the keys.
        self._limits: dict[str, KeyLimits] = {}
        self._keys = self._prepared(self._source.first()) if security.enabled else None
        self._poll: asyncio.TimerHandle | None = None
        if self._keys is not None and self._source.changes:
            self._poll = loop.call_later(_POLL_S, self._reload)

    def authenticate(self, http: HttpRequest) -> ApiKey | None:
        """Return whose request this is; None if the path or the server is open to all.

        Raises:
            AuthenticationError: There is no key, or it isn't one of ours.
        """
        if self._keys is None or http.path in self._exempt:
            return None
        key = self._keys.find(_secret(http))
        if key is None:
            message = "the API key is not valid"
            raise AuthenticationError(message)
        return key

    def begin(self, http: HttpRequest, key: ApiKey, *, wait: bool) -> None:
        """Begin to hold a request against its key's limits.

        Args:
            http: The request.
            key: Whose it is.
            wait: Whether to count it not now but with its tokens, see `reserve_tokens`, unless it
                is going to be refused anyway.

        Raises:
            RateLimitedError: A limit refuses it.
        """
        admission = http.admission = Admission(self._limiter, key, self._limits[key.name])
        if not (wait and admission.can_wait):
            _allow(admission, admission.admit())

    def reserve_tokens(self, http: HttpRequest, tokens: int) -> None:
        """Count a request, if that was not done, and the tokens that it may use.

        Raises:
            RateLimitedError: A limit refuses it; it does not count at all then.
        """
        if http.admission is not None:
            _allow(http.admission, http.admission.admit(tokens))

    def count(self, http: HttpRequest) -> None:
        """Count a request that uses no tokens and is at its end, if that was not done.

        Raises:
            RateLimitedError: A limit refuses it.
        """
        admission = http.admission
        if admission is not None and admission.decision is None:
            _allow(admission, admission.admit(runs=False))

    def usage(self) -> list[dict[str, Any]]:
        """Return how each key's limits stand, over all workers."""
        if self._keys is None:
            return []
        rows = []
        for key in self._keys:
            limits, used = self._limits[key.name], self._limiter.usage(key_id(key))
            rows.append(
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
        return rows

    def close(self) -> None:
        """Let go of the shared counts."""
        if self._poll is not None:
            self._poll.cancel()
        self._limiter.close()

    def _limits_of(self, key: ApiKey) -> KeyLimits:
        limiting = self._security.rate_limiting
        if not limiting.enabled:
            return KeyLimits()
        return KeyLimits(
            requests=key.rate_limit or limiting.default_limit,
            window_s=limiting.window_seconds,
            tokens_per_minute=key.tokens_per_minute or limiting.default_tokens_per_minute,
            concurrent=key.concurrent or limiting.default_concurrent,
        )

    def _prepared(self, keys: KeyRing) -> KeyRing:
        limits = {key.name: self._limits_of(key) for key in keys}
        for key in keys:
            metrics.show_zeros_of_key(key.name)
            with contextlib.suppress(OSError):  # a request that can't be counted tells of it
                self._limiter.prepare(key_id(key), limits[key.name])
        self._limits = limits
        return keys

    def _reload(self) -> None:
        """Take a changed key file; if it is broken or gone the old keys stay."""
        self._poll = self._loop.call_later(_POLL_S, self._reload)
        if not self._source.changed():
            return
        try:
            self._keys = self._prepared(self._source.read())
        except KeysError as error:
            log.error("kept the old keys, the new ones can't be used", reason=error)
        else:
            log.info("keys reloaded", keys=len(self._keys))


def _secret(http: HttpRequest) -> str:
    """Return the API key that a request carries; Anthropic's clients have a header for it.

    Raises:
        AuthenticationError: It carries none.
    """
    header = http.header("authorization")
    if header is None:
        secret = http.header("x-api-key")
        if secret is None:
            message = "an API key is required: send `Authorization: Bearer KEY` or `x-api-key: KEY`"
            raise AuthenticationError(message)
        return secret.strip()
    if header[: len(_SCHEME)].lower() != _SCHEME:
        message = "the Authorization header must be `Bearer KEY`"
        raise AuthenticationError(message)
    return header[len(_SCHEME) :].strip()


def _allow(admission: Admission, decision: Decision) -> None:
    if not decision.allowed:
        raise _refusal(admission.key, decision)


def _refusal(key: ApiKey, decision: Decision) -> RateLimitedError:
    metrics.RATE_LIMITED.labels(key.name, decision.reason or "").inc()
    texts = {
        "requests": "too many requests",
        "tokens": "too many tokens",
        "concurrent": "too many requests at once",
    }
    limit = texts.get(decision.reason or "", "over a limit")
    if decision.never:
        message = f"the request may use more tokens than the key's limit allows at all ({limit})"
    else:
        message = f"{limit} for this API key; try again in {decision.retry_after_s or 1:.0f} s"
    return RateLimitedError(message, retry_after_s=decision.retry_after_s)
