"""What an API key has granted to one request, and what the client is told of its limits."""

from __future__ import annotations

import math
import time

from vgate.frontend.limits import Decision, Limiter, Quota, Ticket
from vgate.keys import ApiKey


class Admission:
    """What a request has been granted; lives as long as the request.

    Attributes:
        key: Whose request it is.
        decision: How the key's limits stood when they were last asked.
    """

    __slots__ = ("_limiter", "_ticket", "_used_tokens", "decision", "key")

    def __init__(self, limiter: Limiter, key: ApiKey, ticket: Ticket, decision: Decision) -> None:
        self._limiter = limiter
        self._ticket = ticket
        self._used_tokens: int | None = None
        self.key = key
        self.decision = decision

    def reserve_tokens(self, tokens: int) -> Decision:
        """Reserve what the request may use at most."""
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
        self._limiter.withdraw(self._ticket)

    def release(self) -> None:
        """End the request."""
        self._limiter.release(self._ticket, self._used_tokens)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that say how the limits stand."""
        return limit_headers(self.decision)


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
