"""One request checked against the limits of its key, under the lock of the key's file."""

from __future__ import annotations

from vgate.frontend.access.limiter.file import LimitFile
from vgate.frontend.access.limiter.port import (
    NS,
    TOKEN_WINDOW_NS,
    Decision,
    KeyLimits,
    Quota,
    Reason,
)
from vgate.frontend.access.limiter.sliding_log import SlidingLog, WindowState

# The end of a running request is unknown; this only spaces the retries.
_CONCURRENT_RETRY_NS = NS


class Check:
    """Reads both windows and keeps their totals up to date when something is taken.

    Build the `decision` after releasing the lock, because the lock blocks every worker.

    Args:
        file: The key's counts, locked.
        limits: The limits that apply.
        now_ns: CLOCK_MONOTONIC.
    """

    __slots__ = (
        "_file",
        "_limits",
        "_never",
        "_requests",
        "_retry_after_ns",
        "_tokens",
        "_window_ns",
        "now_ns",
        "reason",
    )

    def __init__(self, file: LimitFile, limits: KeyLimits, now_ns: int) -> None:
        self._file = file
        self._limits = limits
        self._window_ns = limits.window_ns
        self._never = False
        self._retry_after_ns = 0
        self._requests: WindowState | None = None
        self._tokens: WindowState | None = None
        self.now_ns = now_ns
        self.reason: Reason | None = None

    def requests(self, count: int) -> None:
        """Check whether so many more requests fit."""
        limit = self._limits.requests
        if limit is not None:
            log = self._file.requests
            self._requests = self._window("requests", log, count, limit, self._window_ns)

    def tokens(self, count: int) -> None:
        """Check whether so many more tokens fit. None always fit, even above a lowered limit."""
        limit = self._limits.tokens_per_minute
        if limit is not None:
            self._tokens = self._window("tokens", self._file.tokens, count, limit, TOKEN_WINDOW_NS)

    def concurrent(self) -> None:
        """Check whether one more running request fits."""
        limit = self._limits.concurrent
        if limit is not None and self._file.running >= limit:
            self._refuse("concurrent", _CONCURRENT_RETRY_NS)

    def make_room(self) -> None:
        """Do what can fail, if the disk is full, before anything is taken."""
        if self._requests is not None:
            self._file.make_room(self._file.requests)
        if self._tokens is not None:
            self._file.make_room(self._file.tokens)

    def take_request(self) -> int | None:
        """Count the request; return its stamp, or None without a limit."""
        if self._requests is None:
            return None
        stamp_ns = self._file.requests.add(self.now_ns, 1)
        self._requests = _after(self._requests, 1, stamp_ns)
        return stamp_ns

    def take_tokens(self, count: int) -> int | None:
        """Count tokens; return their stamp, or None without a limit or without tokens."""
        if self._tokens is None or not count:
            return None
        stamp_ns = self._file.tokens.add(self.now_ns, count)
        self._tokens = _after(self._tokens, count, stamp_ns)
        return stamp_ns

    def _window(
        self, reason: Reason, log: SlidingLog, count: int, limit: int, window_ns: int
    ) -> WindowState:
        """Return the state of a window; refuse if `count` does not fit."""
        state = log.window(self.now_ns - window_ns)
        excess = state[0] + count - limit
        if count and excess > 0:
            frees_ns = None if count > limit else log.stamp_freeing(excess)
            if frees_ns is None:
                self._never = True
                self._refuse(reason, 0)
            else:
                self._refuse(reason, frees_ns + window_ns - self.now_ns)
        return state

    def _refuse(self, reason: Reason, retry_after_ns: int) -> None:
        self.reason = self.reason or reason
        self._retry_after_ns = max(self._retry_after_ns, retry_after_ns)

    def decision(self, wall_s: float) -> Decision:
        """Return what was decided; `wall_s` is Unix time."""
        limits, requests, tokens = self._limits, None, None
        if self._requests is not None and limits.requests is not None:
            requests = self._quota(self._requests, limits.requests, self._window_ns, wall_s)
        if self._tokens is not None and limits.tokens_per_minute is not None:
            tokens = self._quota(self._tokens, limits.tokens_per_minute, TOKEN_WINDOW_NS, wall_s)
        if self.reason is None:
            return Decision(None, None, False, requests, tokens)
        retry_after_s = None if self._never else self._retry_after_ns / NS
        return Decision(self.reason, retry_after_s, self._never, requests, tokens)

    def _quota(self, state: WindowState, limit: int, window_ns: int, wall_s: float) -> Quota:
        total, oldest_ns = state
        left_ns = 0 if oldest_ns is None else oldest_ns + window_ns - self.now_ns
        return Quota(limit, max(0, limit - total), wall_s + left_ns / NS)


def _after(state: WindowState, amount: int, stamp_ns: int) -> WindowState:
    """Return the state of a window after one more entry."""
    total, oldest_ns = state
    return total + amount, stamp_ns if oldest_ns is None else oldest_ns
