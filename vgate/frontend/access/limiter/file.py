"""The shared memory of one key's limits: a mapped file and its lock.

The lock is ``flock`` on the file: the kernel drops it when its holder dies, and it separates two
open files of one process, which ``fcntl`` record locks do not. All stores of a holder that died
are in memory, in program order; ``_DIRTY`` tells the next holder to recount the cached sums.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from vgate.config.runtime import MAX_WORKER
from vgate.frontend.access.limiter.sliding_log import HEADER_WORDS, SlidingLog

# Words of the file. The rings follow, in the order in which they were needed.
_MAGIC = 0
_DIRTY = 1
_BOOT = 2
_SIZE = 3  # words in use
_RUNNING = 4  # sum of the slots
_REQUESTS = 8
_TOKENS = _REQUESTS + HEADER_WORDS
_SLOTS = 64  # running requests by worker
_HEADER_WORDS = _SLOTS + MAX_WORKER + 1

_WORD_BYTES = 8
_FORMAT = 0x7667_6C69_6D00_0002  # changes with the layout

_FIRST_ENTRIES = 256
# As many requests as a key's limit can allow in a window: 16 MiB.
_MOST_ENTRIES = 1 << 20

# A new file has room for the first ring of both logs, so that a full disk stops no key later.
_FIRST_WORDS = _HEADER_WORDS + 2 * 2 * _FIRST_ENTRIES
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class Life:
    """The lock that a worker holds as long as it lives: the kernel drops it however it dies."""

    def __init__(self, directory: Path, worker: int) -> None:
        self._directory = directory
        self._fd = self._open(worker)
        # Only a worker that looks after a predecessor holds it, for a moment.
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _open(self, worker: int) -> int:
        path = self._directory / str(worker)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def ended(self, worker: int) -> Iterator[bool]:
        """Yield whether a worker is dead; its successor can't begin meanwhile."""
        fd = self._open(worker)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended = True
            except BlockingIOError:
                ended = False
            yield ended
        finally:
            os.close(fd)

    def close(self) -> None:
        """End it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LimitFile:
    """One key's shared memory; ``with file:`` is the critical section.

    Raises:
        OSError: The file can't be made, as on a full disk.
    """

    def __init__(self, path: Path, *, boot: int) -> None:
        nothing = memoryview(b"").cast("q")
        self.requests = SlidingLog(nothing, _REQUESTS)
        self.tokens = SlidingLog(nothing, _TOKENS)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_size < _FIRST_WORDS * _WORD_BYTES:
                os.posix_fallocate(self._fd, 0, _FIRST_WORDS * _WORD_BYTES)
            self._map()
            # The clock starts again with each boot, so stamps of another boot mean nothing.
            words = self._words
            if words[_MAGIC] != _FORMAT or words[_BOOT] != boot:
                words[_MAGIC] = 0  # if we are killed before the end, the next holder starts again
                words[:_HEADER_WORDS] = memoryview(bytes(_HEADER_WORDS * _WORD_BYTES)).cast("q")
                words[_SIZE] = _HEADER_WORDS
                words[_BOOT] = boot
                words[_MAGIC] = _FORMAT
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self) -> None:
        self._mapped = os.fstat(self._fd).st_size // _WORD_BYTES
        memory = mmap.mmap(self._fd, self._mapped * _WORD_BYTES)
        self._words = memoryview(memory).cast("q")
        self.requests.words = self.tokens.words = self._words

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

    def __exit__(self, kind: object, _error: object, _traceback: object) -> None:
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
        """Give a full log a larger ring, up to a bound and while the disk has room.

        It never shrinks. Without it the log goes on, and counts too much rather than too little.

        The new ring is at the end of the file and the old one is left behind, so that the file and
        its lock stay the same for all workers and the switch is one store.
        """
        if not log.is_full or log.capacity >= _MOST_ENTRIES:
            return
        capacity = 2 * log.capacity or _FIRST_ENTRIES
        at = self._words[_SIZE]
        size = at + 2 * capacity
        # Allocated before it is mapped: a store into a hole on a full disk is a SIGBUS.
        try:
            os.posix_fallocate(self._fd, 0, size * _WORD_BYTES)
        except OSError as error:
            if error.errno in _DISK_IS_FULL and log.capacity:
                return
            raise
        if size > self._mapped:
            self._map()
        self._words[_SIZE] = size
        log.move(at, capacity)

    @property
    def running(self) -> int:
        """Requests of this key that run now, in all workers."""
        return self._words[_RUNNING]

    def count_running(self, worker: int, change: int) -> None:
        """Change the number of a worker's running requests."""
        self._words[_SLOTS + worker] += change
        self._words[_RUNNING] += change

    def workers(self) -> list[int]:
        """Return the workers with running requests."""
        slots = self._words[_SLOTS : _SLOTS + MAX_WORKER + 1]
        return [worker for worker, running in enumerate(slots) if running]

    def drop(self, worker: int) -> None:
        """Forget the running requests of a worker that died."""
        self.count_running(worker, -self._words[_SLOTS + worker])

    def close(self) -> None:
        """Close the file; its memory is freed with the last reference."""
        os.close(self._fd)
