"""The shared memory of one key's limits: a mapped file, its lock and its layout.

**The lock** is ``flock`` on the file. The kernel drops it when its holder dies, and it separates
two open files of one process, which ``fcntl`` record locks do not.

**After a death** the kernel has all stores that the holder made, in program order, and none after.
``_DIRTY`` tells the next holder, which recounts what is cached. What is not cached is changed one
word at a time, and every state in between is right (see `sliding_log`).

Blocks are allocated before they are mapped: a store into a hole on a full disk would kill the
process with SIGBUS.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from vgate.frontend.access.limiter.sliding_log import HEADER_WORDS, SlidingLog

MAX_WORKER = 256

# Words of the file. The rings follow, in the order in which they were needed.
_MAGIC = 0
_DIRTY = 1
_BOOT = 2
_SIZE = 3  # words in use
_RUNNING = 4  # sum of the slots
_REQUESTS = 8
_TOKENS = _REQUESTS + HEADER_WORDS
_SLOTS = 64  # running requests by worker
_HEADER_WORDS = 512

_WORD_BYTES = 8
_FORMAT = 0x7667_6C69_6D00_0002  # changes with the layout

_FIRST_ENTRIES = 256
# As many requests as a key's limit can allow in a window: 16 MiB.
_MOST_ENTRIES = 1 << 20


class LimitFile:
    """One key's shared memory; ``with file:`` is the critical section.

    Raises:
        OSError: The file can't be made, or the disk is full.
    """

    def __init__(self, path: Path, *, boot: int) -> None:
        nothing = memoryview(b"").cast("q")
        self.requests = SlidingLog(nothing, _REQUESTS)
        self.tokens = SlidingLog(nothing, _TOKENS)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_size < _HEADER_WORDS * _WORD_BYTES:
                os.posix_fallocate(self._fd, 0, _HEADER_WORDS * _WORD_BYTES)
            self._map()
            # Stamps of another boot mean nothing, because the clock started again.
            if self._words[_MAGIC] != _FORMAT or self._words[_BOOT] != boot:
                self._format(boot)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self) -> None:
        self._mapped = os.fstat(self._fd).st_size // _WORD_BYTES
        memory = mmap.mmap(self._fd, self._mapped * _WORD_BYTES)
        self._words = memoryview(memory).cast("q")
        self.requests.rebind(self._words)
        self.tokens.rebind(self._words)

    def _format(self, boot: int) -> None:
        words = self._words
        words[_MAGIC] = 0  # killed from here on, it is formatted again
        words[:_HEADER_WORDS] = memoryview(bytes(_HEADER_WORDS * _WORD_BYTES)).cast("q")
        words[_SIZE] = _HEADER_WORDS
        words[_BOOT] = boot
        words[_MAGIC] = _FORMAT

    def __enter__(self) -> Self:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if self._words[_SIZE] > self._mapped:  # another worker made it larger
                self._map()
            if self._words[_DIRTY]:
                self._recount()
            self._words[_DIRTY] = 1
        except BaseException:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:  # otherwise it stays dirty, and the next holder recounts
                self._words[_DIRTY] = 0
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _recount(self) -> None:
        self.requests.recount()
        self.tokens.recount()
        self._words[_RUNNING] = sum(self._words[_SLOTS : _SLOTS + MAX_WORKER + 1])

    def make_room(self, log: SlidingLog) -> None:
        """Give a full log a larger ring, up to a bound. It never shrinks.

        The new ring is made at the end of the file and the old one is left behind: the file and
        its lock stay the same for all workers, and the switch is one store.
        """
        if not log.is_full or log.capacity >= _MOST_ENTRIES:
            return
        capacity = 2 * log.capacity or _FIRST_ENTRIES
        at = self._words[_SIZE]
        size = at + 2 * capacity
        os.posix_fallocate(self._fd, 0, size * _WORD_BYTES)
        if size > self._mapped:
            self._map()
        self._words[_SIZE] = size
        log.move(at, capacity)

    @property
    def running(self) -> int:
        """Requests of this key that run now, in all workers."""
        return self._words[_RUNNING]

    def start(self, worker: int) -> None:
        """Count one more running request of a worker."""
        self._words[_SLOTS + worker] += 1
        self._words[_RUNNING] += 1

    def finish(self, worker: int) -> None:
        """Count one running request of a worker less."""
        self._words[_SLOTS + worker] -= 1
        self._words[_RUNNING] -= 1

    def drop(self, worker: int) -> None:
        """Count no running request of a worker: it has died."""
        self._words[_RUNNING] -= self._words[_SLOTS + worker]
        self._words[_SLOTS + worker] = 0

    def close(self) -> None:
        """Close the file; its memory is freed with the last reference."""
        os.close(self._fd)
