"""One request held against the limits of its key: what is asked, and what is decided."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from vgate.frontend.access.limiter.file import LimitFile
from vgate.frontend.access.limiter.sliding_log import SlidingLog, Stands, entries_for

Reason = Literal["requests", "tokens", "concurrent"]

_NS = 1_000_000_000
TOKEN_WINDOW_NS = 60 * _NS
# When a running request of the key ends is unknown; this only spaces the tries.
_CONCURRENT_RETRY_NS = _NS
# Token entries that are kept apart: 68 requests a second of one key before they are gathered.
TOKEN_ENTRIES = entries_for(4096)


class KeyLimits(msgspec.Struct, frozen=True, dict=True):
    """What one key may do; None is no limit."""

    requests: int | None = None
    window_s: float = 60.0
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @cached_property
    def window_ns(self) -> int:
        """The request window."""
        return max(1, round(self.window_s * _NS))

    @cached_property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return self.requests is None and self.tokens_per_minute is None and self.concurrent is None

    @cached_property
    def request_entries(self) -> int:
        """Capacity of a log that keeps so many requests apart."""
        # Twice, as what was given back may leave empty entries among the others.
        return entries_for(2 * (self.requests or 1))


class Quota(msgspec.Struct, frozen=True):
    """How one limit stands.

    Attributes:
        limit: What is allowed in a window.
        remaining: What is left of it now.
        reset_at: Unix time at which the oldest that counts leaves the window.
    """

    limit: int
    remaining: int
    reset_at: float


class Ticket(msgspec.Struct):
    """What an admitted request has taken; the `Limiter` reads and clears it."""

    key_id: str
    limits: KeyLimits
    request_ns: int | None = None
    tokens_ns: int | None = None
    tokens: int = 0
    epoch: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may go on.

    Attributes:
        reason: The limit that refuses it.
        retry_after_s: Seconds until every limit that refuses would admit it, if nothing else came.
        never: It asks for more than the limit as a whole; waiting does not help.
        requests: The request limit, if there is one.
        tokens: The token limit, if there is one.
        ticket: What it has taken; None if it is refused.
    """

    allowed: bool
    reason: Reason | None = None
    retry_after_s: float | None = None
    never: bool = False
    requests: Quota | None = None
    tokens: Quota | None = None
    ticket: Ticket | None = None


class Usage(msgspec.Struct, frozen=True):
    """What a key uses now, over all workers."""

    requests: int
    tokens: int
    concurrent: int


class Check:
    """Checks limits one by one, inside the critical section, and gathers what refuses.

    How the logs stand is seen with that, and followed when something is taken; it is made a
    `decision` outside, since whoever holds the lock keeps all workers from deciding.

    Args:
        file: The key's counts, locked.
        limits: The limits in force.
        now_ns: CLOCK_MONOTONIC.
    """

    __slots__ = (
        "_file",
        "_limits",
        "_never",
        "_requests",
        "_retry_after_ns",
        "_tokens",
        "now_ns",
        "reason",
    )

    def __init__(self, file: LimitFile, limits: KeyLimits, now_ns: int) -> None:
        self._file = file
        self._limits = limits
        self._never = False
        self._retry_after_ns = 0
        self._requests: Stands | None = None
        self._tokens: Stands | None = None
        self.now_ns = now_ns
        self.reason: Reason | None = None

    def requests(self, cost: int = 1) -> None:
        """One more request in the window, or none more."""
        limit = self._limits.requests
        if limit is not None:
            log, window_ns = self._file.requests, self._limits.window_ns
            self._requests = self._look("requests", log, cost, limit, window_ns)

    def tokens(self, cost: int) -> None:
        """`cost` more tokens in the window; none always fit, also where a limit was lowered."""
        limit = self._limits.tokens_per_minute
        if limit is not None:
            self._tokens = self._look("tokens", self._file.tokens, cost, limit, TOKEN_WINDOW_NS)

    def concurrent(self) -> None:
        """One more running request."""
        limit = self._limits.concurrent
        if limit is not None and self._file.running >= limit:
            self._refuse("concurrent", _CONCURRENT_RETRY_NS, never=limit < 1)

    def take_request(self) -> int:
        """Count the request; return its stamp."""
        file, limits, stands = self._file, self._limits, self._requests
        assert stands is not None
        file.window_ns = limits.window_ns
        stamp_ns = file.requests.add(self.now_ns, 1, limits.window_ns)
        self._requests = _after(stands, 1, stamp_ns)
        return stamp_ns

    def take_tokens(self, cost: int) -> int:
        """Count tokens; return their stamp."""
        stands = self._tokens
        assert stands is not None
        stamp_ns = self._file.tokens.add(self.now_ns, cost, TOKEN_WINDOW_NS)
        self._tokens = _after(stands, cost, stamp_ns)
        return stamp_ns

    def _look(
        self, reason: Reason, log: SlidingLog, cost: int, limit: int, window_ns: int
    ) -> Stands:
        """Return how a log stands; refuse if `cost` does not fit."""
        stands = log.stands(self.now_ns - window_ns)
        if cost and stands[0] + cost > limit:
            excess = stands[0] + cost - limit
            frees_ns = None if cost > limit else log.stamp_freeing(excess)
            if frees_ns is None:
                self._refuse(reason, 0, never=True)
            else:
                self._refuse(reason, frees_ns + window_ns - self.now_ns, never=False)
        return stands

    def _refuse(self, reason: Reason, retry_after_ns: int, *, never: bool) -> None:
        self.reason = self.reason or reason
        self._retry_after_ns = max(self._retry_after_ns, retry_after_ns)
        self._never = self._never or never

    def decision(self, ticket: Ticket | None, wall_s: float) -> Decision:
        """Say what came of it; `wall_s` is Unix time. Outside the critical section."""
        limits, refused = self._limits, self.reason is not None
        requests = tokens = None
        if self._requests is not None and limits.requests is not None:
            requests = self._quota(self._requests, limits.requests, limits.window_ns, wall_s)
        if self._tokens is not None and limits.tokens_per_minute is not None:
            tokens = self._quota(self._tokens, limits.tokens_per_minute, TOKEN_WINDOW_NS, wall_s)
        if not refused:
            return Decision(True, None, None, False, requests, tokens, ticket)
        retry_after_s = None if self._never else self._retry_after_ns / _NS
        return Decision(False, self.reason, retry_after_s, self._never, requests, tokens)

    def _quota(self, stands: Stands, limit: int, window_ns: int, wall_s: float) -> Quota:
        total, oldest_ns = stands
        left_ns = 0 if oldest_ns is None else oldest_ns + window_ns - self.now_ns
        return Quota(limit, max(0, limit - total), wall_s + left_ns / _NS)


def _after(stands: Stands, amount: int, stamp_ns: int) -> Stands:
    """Return how a log stands after one more entry."""
    total, oldest_ns = stands
    return total + amount, stamp_ns if oldest_ns is None else oldest_ns
