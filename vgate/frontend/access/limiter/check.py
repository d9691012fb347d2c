"""One request checked against the limits of its key, while the key's file is locked."""

from __future__ import annotations

from math import inf

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

# Nobody knows when a running request ends; this only spaces the retries.
_CONCURRENT_RETRY_NS = NS


class Check:
    """Reads the windows of a key, and takes requests and tokens from them.

    Call `decision` after releasing the lock, because the lock blocks every worker.

    Args:
        file: The key's counts, locked.
        limits: The limits that apply.
        now_ns: CLOCK_MONOTONIC.
    """

    __slots__ = (
        "_file",
        "_limits",
        "_now_ns",
        "_requests",
        "_tokens",
        "_wait_ns",
        "_window_ns",
        "reason",
    )

    def __init__(self, file: LimitFile, limits: KeyLimits, now_ns: int) -> None:
        self._file = file
        self._limits = limits
        self._now_ns = now_ns
        self._window_ns = limits.window_ns
        self._wait_ns: float = 0
        self._requests: WindowState | None = None
        self._tokens: WindowState | None = None
        self.reason: Reason | None = None

    def requests(self, count: int) -> None:
        """Check whether `count` more requests fit."""
        limit, log = self._limits.requests, self._file.requests
        if limit is not None:
            self._requests = self._window("requests", log, count, limit, self._window_ns)

    def tokens(self, count: int) -> None:
        """Check whether `count` more tokens fit; 0 always do, even above a lowered limit."""
        limit, log = self._limits.tokens_per_minute, self._file.tokens
        if limit is not None:
            self._tokens = self._window("tokens", log, count, limit, TOKEN_WINDOW_NS)

    def concurrent(self) -> None:
        """Check whether one more running request fits."""
        limit = self._limits.concurrent
        if limit is not None and self._file.running >= limit:
            self._refuse("concurrent", _CONCURRENT_RETRY_NS)

    def take(self, tokens: int) -> tuple[int | None, int | None]:
        """Count the request, if `requests` was called, and `tokens`.

        Returns:
            The stamps of the request and of the tokens; None for what is not limited or is 0.
        """
        file, request_ns, tokens_ns = self._file, None, None
        # Only this can fail (the disk is full), so it comes before anything is taken.
        if self._requests is not None:
            file.make_room(file.requests)
        if self._tokens is not None:
            file.make_room(file.tokens)
            if tokens:
                tokens_ns = file.tokens.add(self._now_ns, tokens)
                self._tokens = _after(self._tokens, tokens, tokens_ns)
        if self._requests is not None:
            request_ns = file.requests.add(self._now_ns, 1)
            self._requests = _after(self._requests, 1, request_ns)
        return request_ns, tokens_ns

    def _window(
        self, reason: Reason, log: SlidingLog, count: int, limit: int, window_ns: int
    ) -> WindowState:
        """Return the state of a window; refuse the request if `count` does not fit."""
        state = log.window(self._now_ns - window_ns)
        excess = state[0] + count - limit
        if count and excess > 0:
            frees_ns = None if count > limit else log.stamp_freeing(excess)
            self._refuse(reason, inf if frees_ns is None else frees_ns + window_ns - self._now_ns)
        return state

    def _refuse(self, reason: Reason, wait_ns: float) -> None:
        self.reason = self.reason or reason
        self._wait_ns = max(self._wait_ns, wait_ns)

    def decision(self, wall_s: float) -> Decision:
        """Return the decision; `wall_s` is Unix time."""
        limits, requests, tokens = self._limits, None, None
        if self._requests is not None and limits.requests is not None:
            requests = self._quota(self._requests, limits.requests, self._window_ns, wall_s)
        if self._tokens is not None and limits.tokens_per_minute is not None:
            tokens = self._quota(self._tokens, limits.tokens_per_minute, TOKEN_WINDOW_NS, wall_s)
        if self.reason is None:
            return Decision(None, None, False, requests, tokens)
        never = self._wait_ns == inf
        retry_after_s = None if never else self._wait_ns / NS
        return Decision(self.reason, retry_after_s, never, requests, tokens)

    def _quota(self, state: WindowState, limit: int, window_ns: int, wall_s: float) -> Quota:
        total, oldest_ns = state
        left_ns = 0 if oldest_ns is None else oldest_ns + window_ns - self._now_ns
        return Quota(limit, max(0, limit - total), wall_s + left_ns / NS)


def _after(state: WindowState, amount: int, stamp_ns: int) -> WindowState:
    """Return the state of a window after one more entry."""
    total, oldest_ns = state
    return total + amount, stamp_ns if oldest_ns is None else oldest_ns
