"""A limiter in memory: the port as plainly as it can be said, and as far from `local` as may be.

Its counts are lists, every call suspends its caller as a call to another host would, and its
workers share them by the name of a directory.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vgate.frontend.access.limiter import Decision, KeyLimits, Quota, Usage
from vgate.frontend.access.limiter.port import NS, TOKEN_WINDOW_NS, Reason


class Counts(msgspec.Struct):
    """What one key has taken: [stamp, amount] each, and the running requests by worker."""

    requests: list[list[int]] = []
    tokens: list[list[int]] = []
    running: list[int] = []


_shared: dict[Path, dict[str, Counts]] = {}


class MemoryLimiter:
    def __init__(
        self, path: Path, worker: int, clock_ns: Callable[[], int], wall_s: Callable[[], float]
    ) -> None:
        self._counts = _shared.setdefault(path, {})
        self.worker, self.clock_ns, self.wall_s = worker, clock_ns, wall_s
        for counts in self._counts.values():
            counts.running = [each for each in counts.running if each != worker]

    def likely_full(self, key_id: str, limits: KeyLimits) -> bool:
        return False

    async def reserve(
        self, key_id: str, limits: KeyLimits, tokens: int = 0, *, runs: bool = True
    ) -> "MemoryGrant":
        await asyncio.sleep(0)
        grant = MemoryGrant(self, self._counts.setdefault(key_id, Counts()), limits)
        grant.take(tokens, runs=runs)
        return grant

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        await asyncio.sleep(0)
        counts, now = self._counts.get(key_id, Counts()), self.clock_ns()
        return Usage(
            sum(amount for _, amount in _since(counts.requests, now - limits.window_ns)),
            sum(amount for _, amount in _since(counts.tokens, now - TOKEN_WINDOW_NS)),
            len(counts.running),
        )

    def close(self) -> None:
        pass


class MemoryGrant:
    def __init__(self, limiter: MemoryLimiter, counts: Counts, limits: KeyLimits) -> None:
        self._limiter, self._counts, self._limits = limiter, counts, limits
        self._request: list[int] | None = None
        self._tokens: list[int] | None = None
        self._runs = False
        self.decision = Decision()

    def take(self, tokens: int, *, runs: bool) -> None:
        counts, limits, now = self._counts, self._limits, self._limiter.clock_ns()
        refusals = [*self._refusals(1, tokens)]
        if limits.concurrent is not None and len(counts.running) >= limits.concurrent:
            refusals.append(("concurrent", NS))
        if not refusals:
            self._request = [now, 1]
            counts.requests.append(self._request)
            self._take_tokens(tokens)
            if runs:
                counts.running.append(self._limiter.worker)
                self._runs = True
        self._decide(refusals)

    async def reserve(self, tokens: int) -> Decision:
        await asyncio.sleep(0)
        if self._limits.tokens_per_minute is None or self._tokens is not None:
            return self.decision
        refusals = [*self._refusals(0, tokens)]
        if refusals:
            self._give_back()
        else:
            self._take_tokens(tokens)
        self._decide(refusals)
        return self.decision

    async def settle(self, used_tokens: int | None = None) -> None:
        await asyncio.sleep(0)
        if self._tokens is not None and used_tokens is not None:
            self._tokens[1] = used_tokens
        self._request = self._tokens = None
        self._give_back()

    async def abandon(self) -> None:
        await asyncio.sleep(0)
        self._give_back()

    def _take_tokens(self, tokens: int) -> None:
        if tokens and self._limits.tokens_per_minute is not None:
            self._tokens = [self._limiter.clock_ns(), tokens]
            self._counts.tokens.append(self._tokens)

    def _give_back(self) -> None:
        for taken in (self._request, self._tokens):
            if taken is not None:
                taken[1] = 0
        if self._runs and self._limiter.worker in self._counts.running:
            self._counts.running.remove(self._limiter.worker)
        self._request = self._tokens = None
        self._runs = False

    def _windows(self) -> list[tuple[Reason, int, int, list[list[int]]]]:
        limits, counts, now = self._limits, self._counts, self._limiter.clock_ns()
        windows: list[tuple[Reason, Any, int, list[list[int]]]] = [
            ("requests", limits.requests, limits.window_ns, counts.requests),
            ("tokens", limits.tokens_per_minute, TOKEN_WINDOW_NS, counts.tokens),
        ]
        return [
            (reason, limit, window, _since(log, now - window))
            for reason, limit, window, log in windows
            if limit is not None
        ]

    def _refusals(self, request: int, tokens: int) -> list[tuple[Reason, int | None]]:
        """Return what refuses, each with the nanoseconds to wait, or None if that is no use."""
        refusals: list[tuple[Reason, int | None]] = []
        for reason, limit, window, log in self._windows():
            cost = request if reason == "requests" else tokens
            excess = sum(amount for _, amount in log) + cost - limit
            if not cost or excess <= 0:
                continue
            wait = None
            for stamp, amount in log:
                excess -= amount
                if excess <= 0:
                    wait = stamp + window - self._limiter.clock_ns()
                    break
            refusals.append((reason, None if cost > limit else wait))
        return refusals

    def _decide(self, refusals: list[tuple[Reason, int | None]]) -> None:
        quotas = {}
        for reason, limit, window, log in self._windows():
            used = sum(amount for _, amount in log)
            oldest = log[0][0] if log else self._limiter.clock_ns() - window
            left_ns = oldest + window - self._limiter.clock_ns()
            reset_at = self._limiter.wall_s() + left_ns / NS
            quotas[reason] = Quota(limit, max(0, limit - used), reset_at)
        waits = [wait for _, wait in refusals if wait is not None]
        never = len(waits) < len(refusals)
        self.decision = Decision(
            refusals[0][0] if refusals else None,
            max(waits) / NS if waits and not never else None,
            never,
            quotas.get("requests"),
            quotas.get("tokens"),
        )


def _since(log: list[list[int]], until_ns: int) -> list[list[int]]:
    return [entry for entry in log if entry[0] > until_ns and entry[1]]
