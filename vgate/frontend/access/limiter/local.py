"""The limiter of one machine: the counts are in files that all workers map, without a server.

When a worker is killed, the requests and tokens that it had reserved leave with their window. Its
running requests stop counting as soon as another request would be refused because of them, and when
its successor starts. A window that becomes longer starts with what the shorter one still held.
"""

import time
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from math import inf
from pathlib import Path

import msgspec

from vgate.config.runtime import MAX_WORKER
from vgate.frontend.access.limiter.file import Life, LimitFile
from vgate.frontend.access.limiter.port import (
    NS,
    TOKEN_WINDOW_NS,
    Decision,
    KeyLimits,
    Quota,
    Reason,
    Usage,
)
from vgate.frontend.access.limiter.sliding_log import SlidingLog

# Each open file takes two descriptors (Python's mmap keeps its own), and a process often has 1024.
_MAX_OPEN_FILES = 128
# The directory of the workers' own locks.
_LIVES = "workers"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Nobody knows when a running request ends; this only spaces the retries.
_CONCURRENT_RETRY_NS = NS


class LocalLimiter:
    """A `Limiter`: one worker's access to the shared counts. It never suspends its caller.

    Args:
        directory: Where the files are, one for each key; made if it is missing.
        worker: This worker's number, 0 to `MAX_WORKER`. No two live workers share one; the running
            requests of a dead worker with this number are dropped.
        clock_ns: CLOCK_MONOTONIC, which all processes of a machine share.
        wall_s: Unix time.

    Raises:
        OSError: A file can't be made, as on a full disk. Every method that counts may raise it.
    """

    holds_budgets = False

    def __init__(
        self,
        directory: Path,
        worker: int,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= worker <= MAX_WORKER:
            raise ValueError(f"worker must be 0 to {MAX_WORKER}, got {worker}")
        lives = directory / _LIVES
        lives.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self.worker = worker
        self.clock_ns = clock_ns
        self.wall_s = wall_s
        boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
        self._boot = int.from_bytes(blake2b(boot, digest_size=7).digest())
        self._files: dict[str, LimitFile] = {}
        self._life = Life(lives, worker)
        for path in (each for each in directory.iterdir() if each != lives):
            with closing(LimitFile(path, boot=self._boot)) as file, file:
                file.drop(worker)

    def likely_full(self, key_id: str, limits: KeyLimits) -> bool:
        """Guess from the counts, read without their lock."""
        if limits.requests is None and limits.concurrent is None:
            return False
        file = self.file(key_id)
        if limits.requests is not None and file.requests.total >= limits.requests:
            return True
        return limits.concurrent is not None and file.running >= limits.concurrent

    async def reserve(
        self, key_id: str, limits: KeyLimits, tokens: int = 0, *, runs: bool = True
    ) -> "LocalGrant":
        """Count a request, in one critical section, or refuse it."""
        grant = LocalGrant(self, key_id, limits)
        if not limits.unlimited:
            grant.take(1, tokens, runs=runs)
        return grant

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        """Return what a key uses now."""
        with self.file(key_id) as file:
            self.drop_dead(file)
            now_ns = self.clock_ns()
            requests, _ = file.requests.window(now_ns - limits.window_ns)
            tokens, _ = file.tokens.window(now_ns - TOKEN_WINDOW_NS)
            return Usage(requests, tokens, file.running)

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()
        self._life.close()

    def drop_dead(self, file: LimitFile) -> None:
        """Forget the running requests of workers that were killed; the file is locked."""
        for worker in file.workers():
            with self._life.ended(worker) as ended:
                if ended:
                    file.drop(worker)

    def may_run(self, file: LimitFile, limits: KeyLimits) -> bool:
        """Whether one more request may run; the file is locked."""
        if limits.concurrent is None or file.running < limits.concurrent:
            return True
        self.drop_dead(file)
        return file.running < limits.concurrent

    def file(self, key_id: str) -> LimitFile:
        """Return a key's file, opening it if necessary."""
        file = self._files.get(key_id)
        if file is None:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            path = self._directory / blake2b(key_id.encode(), digest_size=16).hexdigest()
            file = self._files[key_id] = LimitFile(path, boot=self._boot)
        return file


class Window(msgspec.Struct, gc=False):
    """A limit over a window of time, while the key's file is locked."""

    log: SlidingLog
    limit: int
    length_ns: int
    now_ns: int

    def wait_ns(self, amount: int) -> float:
        """Return the time until `amount` fits: 0 if it does now, infinite if it never will.

        0 always fits, even above a lowered limit.
        """
        total, _ = self.log.window(self.now_ns - self.length_ns)
        excess = total + amount - self.limit
        if not amount or excess <= 0:
            return 0
        frees_ns = None if amount > self.limit else self.log.stamp_freeing(excess)
        return inf if frees_ns is None else frees_ns + self.length_ns - self.now_ns

    def quota(self, wall_s: float) -> Quota:
        """Return what remains now; `wall_s` is Unix time."""
        total, oldest_ns = self.log.window(self.now_ns - self.length_ns)
        left_ns = 0 if oldest_ns is None else oldest_ns + self.length_ns - self.now_ns
        return Quota(self.limit, max(0, self.limit - total), wall_s + left_ns / NS)


class LocalGrant(msgspec.Struct):
    """A `Grant`. Each call is one critical section, or none if nothing has to change."""

    limiter: LocalLimiter
    key_id: str
    limits: KeyLimits
    # Stamps of this request's entries; None if there is none that may still change.
    request_ns: int | None = None
    tokens_ns: int | None = None
    tokens: int = 0
    running: bool = False
    decision: Decision = Decision()

    def take(self, requests: int, tokens: int, *, runs: bool) -> Decision:
        """Take all that is asked for or, if a limit refuses, give back what was taken before.

        `requests` is 1 for a request, and 0 for tokens of one that was counted. The request begins
        to run if it `runs`.
        """
        limiter, limits = self.limiter, self.limits
        reason: Reason | None = None
        longest_ns: float = 0
        request_window = token_window = None
        with limiter.file(self.key_id) as file:
            now_ns = limiter.clock_ns()
            if (limit := limits.requests) is not None:
                request_window = Window(file.requests, limit, limits.window_ns, now_ns)
                if wait_ns := request_window.wait_ns(requests):
                    reason, longest_ns = "requests", wait_ns
            if (limit := limits.tokens_per_minute) is not None:
                token_window = Window(file.tokens, limit, TOKEN_WINDOW_NS, now_ns)
                if wait_ns := token_window.wait_ns(tokens):
                    reason, longest_ns = reason or "tokens", max(longest_ns, wait_ns)
            if requests and not limiter.may_run(file, limits):
                reason, longest_ns = reason or "concurrent", max(longest_ns, _CONCURRENT_RETRY_NS)
            if reason is None:
                self._add(file, now_ns, requests, tokens)
                if runs:
                    file.count_running(limiter.worker, 1)
                    self.running = True
            else:
                self._end(file, -1, -self.tokens)
            wall_s = limiter.wall_s()
            self.decision = Decision(
                reason,
                longest_ns / NS if 0 < longest_ns < inf else None,
                longest_ns == inf,
                None if request_window is None else request_window.quota(wall_s),
                None if token_window is None else token_window.quota(wall_s),
            )
        return self.decision

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens, or give the request back."""
        if self.limits.tokens_per_minute is None or self.tokens_ns is not None:
            return self.decision  # the other limits were checked already
        return self.take(0, tokens, runs=False)

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request with the tokens that it used."""
        change = 0
        if self.tokens_ns is not None and used_tokens is not None:
            change = used_tokens - self.tokens
        if self.running or change:
            with self.limiter.file(self.key_id) as file:
                self._end(file, 0, change)
        self.request_ns = self.tokens_ns = None

    async def abandon(self) -> None:
        """End the request and give back what it took."""
        if self.running or self.request_ns is not None or self.tokens_ns is not None:
            with self.limiter.file(self.key_id) as file:
                self._end(file, -1, -self.tokens)

    def _add(self, file: LimitFile, now_ns: int, requests: int, tokens: int) -> None:
        limits = self.limits
        # Only this can fail, so it comes before anything is taken.
        if limits.requests is not None:
            file.make_room(file.requests)
        if limits.tokens_per_minute is not None:
            file.make_room(file.tokens)
            if tokens:
                self.tokens_ns, self.tokens = file.tokens.add(now_ns, tokens), tokens
        if requests and limits.requests is not None:
            self.request_ns = file.requests.add(now_ns, requests)

    def _end(self, file: LimitFile, request_change: int, token_change: int) -> None:
        """Correct what was taken, and run no more."""
        if request_change and self.request_ns is not None:
            file.requests.adjust(self.request_ns, request_change)
        if token_change and self.tokens_ns is not None:
            file.tokens.adjust(self.tokens_ns, token_change)
        if self.running:
            file.count_running(self.limiter.worker, -1)
            self.running = False
        self.request_ns = self.tokens_ns = None
