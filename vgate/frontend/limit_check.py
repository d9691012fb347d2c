"""One request held against the limits of its key: what is asked, and what is decided."""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.frontend.limit_file import LimitFile
from vgate.frontend.sliding_log import SlidingLog

Reason = Literal["requests", "tokens", "concurrent"]

_NS = 1_000_000_000
TOKEN_WINDOW_NS = 60 * _NS
# When a running request of the key ends is unknown; this only spaces the tries.
_CONCURRENT_RETRY_NS = _NS


class KeyLimits(msgspec.Struct, frozen=True):
    """What one key may do; None is no limit."""

    requests: int | None = None
    window_s: float = 60.0
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @property
    def window_ns(self) -> int:
        """The request window."""
        return max(1, round(self.window_s * _NS))

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to count."""
        return self.requests is None and self.tokens_per_minute is None and self.concurrent is None


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

    `look` is the last thing that it does there: what it saw is made a `decision` outside, since
    whoever holds the lock keeps all workers from deciding.

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
        "window_ns",
    )

    def __init__(self, file: LimitFile, limits: KeyLimits, now_ns: int) -> None:
        self._file = file
        self._limits = limits
        self._never = False
        self._retry_after_ns = 0
        # How the logs stand: what is in them, and since when.
        self._requests: tuple[int, int | None] | None = None
        self._tokens: tuple[int, int | None] | None = None
        self.now_ns = now_ns
        self.window_ns = limits.window_ns
        self.reason: Reason | None = None

    def requests(self) -> None:
        """One more request in the window."""
        limit = self._limits.requests
        if limit is not None:
            self._log("requests", self._file.requests, 1, limit, self.window_ns)

    def tokens(self, cost: int) -> None:
        """`cost` more tokens in the window; none always fit, also where a limit was lowered."""
        limit = self._limits.tokens_per_minute
        if limit is not None and cost:
            self._log("tokens", self._file.tokens, cost, limit, TOKEN_WINDOW_NS)

    def concurrent(self) -> None:
        """One more running request."""
        limit = self._limits.concurrent
        if limit is not None and self._file.running >= limit:
            self._refuse("concurrent", _CONCURRENT_RETRY_NS, never=limit < 1)

    def look(self) -> None:
        """See how the limits stand now."""
        file, now_ns = self._file, self.now_ns
        if self._limits.requests is not None:
            self._requests = file.requests.stands(now_ns - self.window_ns)
        if self._limits.tokens_per_minute is not None:
            self._tokens = file.tokens.stands(now_ns - TOKEN_WINDOW_NS)

    def _log(self, reason: Reason, log: SlidingLog, cost: int, limit: int, window_ns: int) -> None:
        excess = log.expire(self.now_ns - window_ns) + cost - limit
        if excess <= 0:
            return
        frees_ns = None if cost > limit else log.stamp_freeing(excess)
        if frees_ns is None:
            self._refuse(reason, 0, never=True)
        else:
            self._refuse(reason, frees_ns + window_ns - self.now_ns, never=False)

    def _refuse(self, reason: Reason, retry_after_ns: int, *, never: bool) -> None:
        self.reason = self.reason or reason
        self._retry_after_ns = max(self._retry_after_ns, retry_after_ns)
        self._never = self._never or never

    def decision(self, ticket: Ticket | None, wall_s: float) -> Decision:
        """Say what came of it; `wall_s` is Unix time. Outside the critical section."""
        limits, refused = self._limits, self.reason is not None
        return Decision(
            allowed=not refused,
            reason=self.reason,
            retry_after_s=self._retry_after_ns / _NS if refused and not self._never else None,
            never=self._never,
            requests=self._quota(self._requests, limits.requests, self.window_ns, wall_s),
            tokens=self._quota(self._tokens, limits.tokens_per_minute, TOKEN_WINDOW_NS, wall_s),
            ticket=None if refused else ticket,
        )

    def _quota(
        self,
        stands: tuple[int, int | None] | None,
        limit: int | None,
        window_ns: int,
        wall_s: float,
    ) -> Quota | None:
        if stands is None or limit is None:
            return None
        total, oldest_ns = stands
        left_ns = 0 if oldest_ns is None else oldest_ns + window_ns - self.now_ns
        return Quota(limit, max(0, limit - total), wall_s + left_ns / _NS)
