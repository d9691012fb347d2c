"""Exact limits per API key over all workers of one machine, without a server.

- *Requests*: at most ``requests`` admitted ones in any ``window_s``, a window that slides, not one
  that begins anew every minute. A request is refused only if that many really lie in the window.
- *Tokens*: at most ``tokens_per_minute`` in any 60 s, counted at the time of admission: first
  what the request may use at most (prompt and longest answer), and what it did use once known.
- *Concurrency*: at most ``concurrent`` at a time.

A refused request counts against nothing. Because its tokens are known only after its body was
decoded, and a stored answer uses none, a request is admitted in two steps, `Limiter.admit` and
`Limiter.reserve_tokens`; in between it counts, and if the second refuses, the first is undone. A
request that is admitted and then turns out to be invalid counts, as it has cost work.

Limits are given with every call, so a changed one is in force at once, and what was counted stays:
a lower limit refuses until enough has left the window, a higher one admits at once. A longer
window knows only what the shorter one still remembered, and a limit that is switched on counts
from then on. All of that survives workers; it ends with the run directory or the boot.

A worker that is killed leaves what its requests had taken: requests and reserved tokens leave with
their window, running requests are dropped when its successor calls `Limiter.reset_worker`. Killed
in the middle of a decision, it may have taken a part, which ends in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from vgate.frontend.access.limiter.check import (
    TOKEN_ENTRIES,
    TOKEN_WINDOW_NS,
    Check,
    Decision,
    KeyLimits,
    Quota,
    Ticket,
    Usage,
)
from vgate.frontend.access.limiter.file import MAX_WORKER, LimitFile

__all__ = ["Decision", "KeyLimits", "Limiter", "Quota", "Ticket", "Usage"]

# Each open file takes two descriptors (Python's mmap keeps its own), and a process often has 1024.
_MAX_OPEN_FILES = 128
# Room for more, up to 4 MiB, is made for keys that are used.
_PREPARED_REQUESTS = 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Limiter:
    """One worker's door to the shared counts. For one thread; calls take microseconds.

    Args:
        directory: Where the files are, one for each key; made if need be.
        worker: This worker's number, 0 to 256; no two live workers share one.
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
            message = f"worker must be 0 to {MAX_WORKER}, got {worker}"
            raise ValueError(message)
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._worker = worker
        self._clock_ns = clock_ns
        self._wall_s = wall_s
        boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
        self._boot = int.from_bytes(blake2b(boot, digest_size=7).digest())
        self._files: dict[str, LimitFile] = {}

    def prepare(self, key_id: str, limits: KeyLimits) -> None:
        """Open a key's file, so that its first request need not wait for that."""
        if limits.unlimited or len(self._files) >= _MAX_OPEN_FILES:
            return
        with self._file(key_id) as file:
            if limits.requests is not None and limits.requests <= _PREPARED_REQUESTS:
                file.make_room(file.requests, limits.request_entries)

    def looks_full(self, key_id: str, limits: KeyLimits) -> bool:
        """Say whether a request would probably be refused, whatever tokens it may use.

        Asked without the lock, so it must not decide anything but when to decide.
        """
        if limits.requests is None and limits.concurrent is None:
            return False
        file = self._file(key_id)
        if limits.requests is not None and file.requests.total >= limits.requests:
            return True
        return limits.concurrent is not None and file.running >= limits.concurrent

    def admit(
        self, key_id: str, limits: KeyLimits, cost_tokens: int = 0, *, runs: bool = True
    ) -> Decision:
        """Admit a request and count it, or refuse it: all limits at once, all or nothing.

        Args:
            key_id: Whose limits; any text, the same for all workers.
            limits: The limits in force.
            cost_tokens: The most tokens that it can use. 0 if it uses none, or if that is not known
                yet and `reserve_tokens` follows: the token limit does not refuse it then.
            runs: Whether it goes on until it is released; one that is answered already does not.
        """
        ticket = Ticket(key_id, limits)
        if limits.unlimited:
            return Decision(allowed=True, ticket=ticket)
        with self._file(key_id) as file:
            check = Check(file, limits, self._clock_ns())
            check.requests()
            check.tokens(cost_tokens)
            check.concurrent()
            if check.reason is None:
                # What can fail, for want of disk, comes before anything is taken.
                if limits.requests is not None:
                    file.make_room(file.requests, limits.request_entries)
                _take_tokens(file, ticket, check, cost_tokens)
                if limits.requests is not None:
                    ticket.request_ns = check.take_request()
                if runs:
                    ticket.epoch = file.start(self._worker)
        return check.decision(ticket, self._wall_s())

    def reserve_tokens(self, ticket: Ticket, cost_tokens: int) -> Decision:
        """Reserve an admitted request's tokens; if they are refused, `withdraw` the request."""
        limits = ticket.limits
        if limits.tokens_per_minute is None or ticket.tokens_ns is not None:
            return Decision(allowed=True, ticket=ticket)
        with self._file(ticket.key_id) as file:
            check = Check(file, limits, self._clock_ns())
            check.tokens(cost_tokens)
            if check.reason is None:
                _take_tokens(file, ticket, check, cost_tokens)
            else:
                self._give_back(file, ticket)
            check.requests(0)
        return check.decision(ticket, self._wall_s())

    def release(self, ticket: Ticket, used_tokens: int | None = None) -> None:
        """End the request for the concurrency limit; idempotent.

        Args:
            ticket: What it has taken.
            used_tokens: Replaces what was reserved, if it is known; the first call counts.
        """
        settles = used_tokens is not None and ticket.tokens_ns is not None
        if ticket.epoch is None and not settles:
            return
        with self._file(ticket.key_id) as file:
            if used_tokens is not None and ticket.tokens_ns is not None:
                file.tokens.adjust(ticket.tokens_ns, max(0, used_tokens) - ticket.tokens)
            if ticket.epoch is not None:
                file.finish(self._worker, ticket.epoch)
        ticket.epoch = None
        if settles:
            ticket.tokens_ns = None

    def withdraw(self, ticket: Ticket) -> None:
        """Undo the admission: the request was refused for another reason. Idempotent."""
        if ticket.limits.unlimited:
            return
        with self._file(ticket.key_id) as file:
            self._give_back(file, ticket)

    def usage(self, key_id: str) -> Usage:
        """Return what the key uses now."""
        with self._file(key_id) as file:
            now_ns = self._clock_ns()
            return Usage(
                requests=file.requests.stands(now_ns - file.window_ns)[0],
                tokens=file.tokens.stands(now_ns - TOKEN_WINDOW_NS)[0],
                concurrent=file.running,
            )

    def reset_worker(self, worker: int) -> None:
        """Drop the running requests of a dead worker, for all keys.

        Its successor calls this before its first request. Requests and tokens that the dead one
        had counted stay: they were admitted, and leave with their window.
        """
        for path in self._directory.iterdir():
            file = LimitFile(path, boot=self._boot, now_ns=self._clock_ns())
            try:
                with file:
                    file.drop(worker)
            finally:
                file.close()

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _give_back(self, file: LimitFile, ticket: Ticket) -> None:
        if ticket.request_ns is not None:
            file.requests.adjust(ticket.request_ns, -1)
        if ticket.tokens_ns is not None:
            file.tokens.adjust(ticket.tokens_ns, -ticket.tokens)
        if ticket.epoch is not None:
            file.finish(self._worker, ticket.epoch)
        ticket.request_ns = ticket.tokens_ns = ticket.epoch = None

    def _file(self, key_id: str) -> LimitFile:
        file = self._files.get(key_id)
        if file is None:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            path = self._directory / blake2b(key_id.encode(), digest_size=16).hexdigest()
            file = LimitFile(path, boot=self._boot, now_ns=self._clock_ns())
            self._files[key_id] = file
        return file


def _take_tokens(file: LimitFile, ticket: Ticket, check: Check, cost: int) -> None:
    if ticket.limits.tokens_per_minute is None or not cost:
        return
    file.make_room(file.tokens, TOKEN_ENTRIES)
    ticket.tokens_ns = check.take_tokens(cost)
    ticket.tokens = cost
