"""What an API key has granted to one request, and what the client is told of its limits."""

from __future__ import annotations

import math
import time

from vgate.frontend.access.limiter.local import Decision, KeyLimits, Limiter, Quota, Ticket
from vgate.keys import ApiKey


class Admission:
    """What a request asks of its key's limits; lives as long as the request.

    Each asking is a critical section that all workers share, so a request is decided on once where
    that will do: with its tokens, when these are known, or at its end, when it has used none.

    Args:
        limiter: The shared counts.
        key: Whose request it is.
        limits: The key's.

    Attributes:
        key: Whose request it is.
        decision: How the key's limits stood when they were last asked; None before that.
    """

    __slots__ = ("_key_id", "_limiter", "_limits", "_ticket", "_used_tokens", "decision", "key")

    def __init__(self, limiter: Limiter, key: ApiKey, limits: KeyLimits) -> None:
        self._limiter = limiter
        self._key_id = key_id(key)
        self._limits = limits
        self._ticket: Ticket | None = None
        self._used_tokens: int | None = None
        self.key = key
        self.decision: Decision | None = None

    @property
    def can_wait(self) -> bool:
        """Whether to decide later: what is refused whatever it asks should be so at once."""
        return not self._limiter.looks_full(self._key_id, self._limits)

    def admit(self, tokens: int = 0, *, runs: bool = True) -> Decision:
        """Decide on the request, or, if that was done, on tokens that it may use besides.

        Args:
            tokens: The most that it may use.
            runs: Whether it goes on until its `release`.
        """
        if self._ticket is None:
            decision = self._limiter.admit(self._key_id, self._limits, tokens, runs=runs)
            self._ticket = decision.ticket
            self.decision = decision
            return decision
        decision = self._limiter.reserve_tokens(self._ticket, tokens)
        if decision.requests or decision.tokens:
            # It was looked again, which a key without a limit on tokens needs no look for.
            self.decision = decision
        return decision

    def settle(self, used_tokens: int) -> None:
        """Note what was used; the rest of what was reserved is given back with the end."""
        self._used_tokens = used_tokens

    def withdraw(self) -> None:
        """Make it as if the request had not been made."""
        if self._ticket is not None:
            self._limiter.withdraw(self._ticket)

    def release(self) -> None:
        """End the request."""
        if self._ticket is not None:
            self._limiter.release(self._ticket, self._used_tokens)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that say how the limits stand."""
        return [] if self.decision is None else limit_headers(self.decision)


def key_id(key: ApiKey) -> str:
    """Return the name of a key's counts: they stay with the name when the key is rotated."""
    return f"key:{key.name}"


def limit_headers(decision: Decision) -> list[tuple[str, str]]:
    """Say how the limits stand: the earlier V-Gate's names, and OpenAI's beside them."""
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
