"""The limiter of one machine: the counts are in files that all workers map, without a server.

When a worker is killed, its requests and reserved tokens leave with their window, and its running
requests are dropped when its successor starts. A window that becomes longer starts with what the
shorter one still held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from vgate.frontend.access.limiter.check import Check
from vgate.frontend.access.limiter.file import MAX_WORKER, LimitFile
from vgate.frontend.access.limiter.port import TOKEN_WINDOW_NS, Decision, KeyLimits, Usage

# Each open file takes two descriptors (Python's mmap keeps its own), and a process often has 1024.
_MAX_OPEN_FILES = 128
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ALLOWED = Decision()


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
    ) -> LocalGrant:
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


class LocalGrant:
    """A `Grant`. Each call is one critical section, or none if nothing has to change."""

    # The stamps of this request's entries are None if there is no entry that may still change.
    __slots__ = (
        "_key_id",
        "_limiter",
        "_limits",
        "_request_ns",
        "_runs",
        "_tokens",
        "_tokens_ns",
        "decision",
    )

    def __init__(self, limiter: LocalLimiter, key_id: str, limits: KeyLimits) -> None:
        self._limiter = limiter
        self._key_id = key_id
        self._limits = limits
        self._request_ns: int | None = None
        self._tokens_ns: int | None = None
        self._tokens = 0
        self._runs = False
        self.decision = _ALLOWED

    def take(self, tokens: int, *, runs: bool) -> None:
        """Decide on the request. Called once, by the limiter that makes the grant."""
        limiter = self._limiter
        with limiter.file(self._key_id) as file:
            check = Check(file, self._limits, limiter.clock_ns())
            check.requests(1)
            check.tokens(tokens)
            check.concurrent()
            if check.reason is None:
                self._request_ns, self._tokens_ns = check.take(tokens)
                self._tokens = tokens
                if runs:
                    file.count_running(limiter.worker, 1)
                    self._runs = True
        self.decision = check.decision(limiter.wall_s())

    async def reserve(self, tokens: int) -> Decision:
        """Reserve tokens, or give the request back."""
        limiter = self._limiter
        if self._limits.tokens_per_minute is None or self._tokens_ns is not None:
            return self.decision  # the other limits were checked already
        with limiter.file(self._key_id) as file:
            check = Check(file, self._limits, limiter.clock_ns())
            check.tokens(tokens)
            if check.reason is None:
                _, self._tokens_ns = check.take(tokens)
                self._tokens = tokens
            else:
                self._give_back(file)
            check.requests(0)
        self.decision = check.decision(limiter.wall_s())
        return self.decision

    async def settle(self, used_tokens: int | None = None) -> None:
        """End the request with the tokens that it used."""
        adjusts = self._tokens_ns is not None and used_tokens not in {None, self._tokens}
        if self._runs or adjusts:
            with self._limiter.file(self._key_id) as file:
                if self._tokens_ns is not None and used_tokens is not None:
                    file.tokens.adjust(self._tokens_ns, used_tokens - self._tokens)
                self._finish(file)
        self._request_ns = self._tokens_ns = None

    async def abandon(self) -> None:
        """End the request and give back what it took."""
        if self._runs or self._request_ns is not None or self._tokens_ns is not None:
            with self._limiter.file(self._key_id) as file:
                self._give_back(file)

    def _give_back(self, file: LimitFile) -> None:
        if self._request_ns is not None:
            file.requests.adjust(self._request_ns, -1)
        if self._tokens_ns is not None:
            file.tokens.adjust(self._tokens_ns, -self._tokens)
        self._finish(file)
        self._request_ns = self._tokens_ns = None

    def _finish(self, file: LimitFile) -> None:
        if self._runs:
            file.count_running(self._limiter.worker, -1)
            self._runs = False
