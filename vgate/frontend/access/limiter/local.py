"""The limiter of one machine: the counts are in files that all workers map, without a server.

When a worker is killed, its requests and reserved tokens leave with their window, and its running
requests are dropped when its successor starts. A window that becomes longer starts with what the
shorter one still held.
"""

import time
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from math import inf
from pathlib import Path

import msgspec

from vgate.frontend.access.limiter.file import MAX_WORKER, LimitFile
from vgate.frontend.access.limiter.port import (
    NS,
    TOKEN_WINDOW_NS,
    Decision,
    KeyLimits,
    Quota,
    Reason,
    Usage,
)
from vgate.frontend.access.limiter.sliding_log import SlidingLog, WindowState

# Each open file takes two descriptors (Python's mmap keeps its own), and a process often has 1024.
_MAX_OPEN_FILES = 128
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ALLOWED = Decision()
# Nobody knows when a running request ends; this only spaces the retries.
_CONCURRENT_RETRY_NS = NS


class LocalLimiter:
    """A `Limiter`: one worker's access to the shared counts. It never suspends its caller.

    Args:
        directory: Where the files are, one for each key; made if it is missing.
        worker: This worker's number, 0 to 256. No two live workers share one; the running requests
            of a dead worker with this number are dropped.
        clock_ns: CLOCK_MONOTONIC, which all processes of a machine share.
        wall_s: Unix time.

    Raises:
        OSError: A file can't be made, or the disk is full. Every method that counts may raise it.
    """

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
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self.worker = worker
        self.clock_ns = clock_ns
        self.wall_s = wall_s
        boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
        self._boot = int.from_bytes(blake2b(boot, digest_size=7).digest())
        self._files: dict[str, LimitFile] = {}
        for path in directory.iterdir():
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
            grant.take(tokens, runs=runs)
        return grant

    async def usage(self, key_id: str, limits: KeyLimits) -> Usage:
        """Return what a key uses now."""
        with self.file(key_id) as file:
            now_ns = self.clock_ns()
            requests, _ = file.requests.window(now_ns - limits.window_ns)
            tokens, _ = file.tokens.window(now_ns - TOKEN_WINDOW_NS)
            return Usage(requests, tokens, file.running)

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def file(self, key_id: str) -> LimitFile:
        """Return a key's file, opening it if necessary."""
        file = self._files.get(key_id)
        if file is None:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            path = self._directory / blake2b(key_id.encode(), digest_size=16).hexdigest()
            file = self._files[key_id] = LimitFile(path, boot=self._boot)
        return file


class Check(msgspec.Struct, gc=False):
    """One request checked against the limits of its key, while the key's file is locked.

    Call `decision` after releasing the lock, because the lock blocks every worker.
    """

    file: LimitFile
    limits: KeyLimits
    now_ns: int
    window_ns: int
    wait_ns: float = 0
    request_window: WindowState | None = None
    token_window: WindowState | None = None
    reason: Reason | None = None

    def requests(self, count: int) -> None:
        """Check whether `count` more requests fit."""
        limit, log = self.limits.requests, self.file.requests
        if limit is not None:
            self.request_window = self._window("requests", log, count, limit, self.window_ns)

    def tokens(self, count: int) -> None:
        """Check whether `count` more tokens fit; 0 always do, even above a lowered limit."""
        limit, log = self.limits.tokens_per_minute, self.file.tokens
        if limit is not None:
            self.token_window = self._window("tokens", log, count, limit, TOKEN_WINDOW_NS)

    def concurrent(self) -> None:
        """Check whether one more running request fits."""
        limit = self.limits.concurrent
        if limit is not None and self.file.running >= limit:
            self._refuse("concurrent", _CONCURRENT_RETRY_NS)

    def take(self, tokens: int) -> tuple[int | None, int | None]:
        """Count the request, if `requests` was called, and `tokens`.

        Returns:
            The stamps of the request and of the tokens; None for what is not limited or is 0.
        """
        file, request_ns, tokens_ns = self.file, None, None
        # Only this can fail (the disk is full), so it comes before anything is taken.
        if self.request_window is not None:
            file.make_room(file.requests)
        if self.token_window is not None:
            file.make_room(file.tokens)
            if tokens:
                tokens_ns = file.tokens.add(self.now_ns, tokens)
                self.token_window = _after(self.token_window, tokens, tokens_ns)
        if self.request_window is not None:
            request_ns = file.requests.add(self.now_ns, 1)
            self.request_window = _after(self.request_window, 1, request_ns)
        return request_ns, tokens_ns

    def _window(
        self, reason: Reason, log: SlidingLog, count: int, limit: int, window_ns: int
    ) -> WindowState:
        """Return the state of a window; refuse the request if `count` does not fit."""
        state = log.window(self.now_ns - window_ns)
        excess = state[0] + count - limit
        if count and excess > 0:
            frees_ns = None if count > limit else log.stamp_freeing(excess)
            self._refuse(reason, inf if frees_ns is None else frees_ns + window_ns - self.now_ns)
        return state

    def _refuse(self, reason: Reason, wait_ns: float) -> None:
        self.reason = self.reason or reason
        self.wait_ns = max(self.wait_ns, wait_ns)

    def decision(self, wall_s: float) -> Decision:
        """Return the decision; `wall_s` is Unix time."""
        limits, requests, tokens = self.limits, None, None
        if self.request_window is not None and limits.requests is not None:
            requests = self._quota(self.request_window, limits.requests, self.window_ns, wall_s)
        if self.token_window is not None and limits.tokens_per_minute is not None:
            tokens = self._quota(
                self.token_window, limits.tokens_per_minute, TOKEN_WINDOW_NS, wall_s
            )
        if self.reason is None:
            return Decision(None, None, False, requests, tokens)
        never = self.wait_ns == inf
        retry_after_s = None if never else self.wait_ns / NS
        return Decision(self.reason, retry_after_s, never, requests, tokens)

    def _quota(self, state: WindowState, limit: int, window_ns: int, wall_s: float) -> Quota:
        total, oldest_ns = state
        left_ns = 0 if oldest_ns is None else oldest_ns + window_ns - self.now_ns
        return Quota(limit, max(0, limit - total), wall_s + left_ns / NS)


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
    decision: Decision = _ALLOWED

    def take(self, tokens: int, *, runs: bool) -> None:
        """Decide on the request. Called once, by the limiter that makes the grant."""
        limiter = self.limiter
        with limiter.file(self.key_id) as file:
            check = Check(file, self.limits, limiter.clock_ns(), self.limits.window_ns)
            check.requests(1)
            check.tokens(tokens)
            check.concurrent()
            if check.reason is None:
                self.request_ns, self.tokens_ns = check.take(tokens)
                self.tokens = tokens
                if runs:
                    file.count_running(limiter.worker, 1)
                    self.running = True
        self.decision = check.decision(limiter.wall_s())

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens, or give the request back."""
        limiter = self.limiter
        if self.limits.tokens_per_minute is None or self.tokens_ns is not None:
            return self.decision  # the other limits were checked already
        with limiter.file(self.key_id) as file:
            check = Check(file, self.limits, limiter.clock_ns(), self.limits.window_ns)
            check.tokens(tokens)
            if check.reason is None:
                _, self.tokens_ns = check.take(tokens)
                self.tokens = tokens
            else:
                self._give_back(file)
            check.requests(0)
        self.decision = check.decision(limiter.wall_s())
        return self.decision

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request with the tokens that it used."""
        adjusts = self.tokens_ns is not None and used_tokens not in {None, self.tokens}
        if self.running or adjusts:
            with self.limiter.file(self.key_id) as file:
                if self.tokens_ns is not None and used_tokens is not None:
                    file.tokens.adjust(self.tokens_ns, used_tokens - self.tokens)
                self._finish(file)
        self.request_ns = self.tokens_ns = None

    async def abandon(self) -> None:
        """End the request and give back what it took."""
        if self.running or self.request_ns is not None or self.tokens_ns is not None:
            with self.limiter.file(self.key_id) as file:
                self._give_back(file)

    def _give_back(self, file: LimitFile) -> None:
        if self.request_ns is not None:
            file.requests.adjust(self.request_ns, -1)
        if self.tokens_ns is not None:
            file.tokens.adjust(self.tokens_ns, -self.tokens)
        self._finish(file)
        self.request_ns = self.tokens_ns = None

    def _finish(self, file: LimitFile) -> None:
        if self.running:
            file.count_running(self.limiter.worker, -1)
            self.running = False


def _after(state: WindowState, amount: int, stamp_ns: int) -> WindowState:
    """Return the state of a window after one more entry."""
    total, oldest_ns = state
    return total + amount, stamp_ns if oldest_ns is None else oldest_ns
