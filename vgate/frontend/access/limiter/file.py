"""The shared memory of one key's limits: a mapped file, its lock and its layout.

**The lock** is ``flock`` on the file. The kernel drops it when its holder dies, it keeps apart two
open files of one process (which ``fcntl`` record locks do not), and taking and leaving it costs
1.3 us where a lock file made with ``O_EXCL`` costs 11 us and outlives its holder. A mutex in the
memory itself would save 0.5 us and need the C library's robust mutexes through ctypes.

It is called without letting go of Python's own lock (GIL), which ``fcntl.flock`` does each time:
granian's thread waits for that lock to hand over the next request, so each of the four to eight
calls of a request would be two changes of thread. Only who has to wait for another process lets go.

**After a death** the kernel has all stores that the holder made, in program order, and none after.
``_DIRTY`` tells the next holder, who recounts what is cached. What is not cached is changed one
word at a time, each of them a state that is right (see `sliding_log`).

Blocks are allocated before they are mapped: a store into a hole on a full disk would kill the
process with SIGBUS.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from vgate.frontend.access.limiter.sliding_log import HEADER_WORDS, SlidingLog, words_for

MAX_WORKER = 256

# Words of the file. The rings follow, in the order in which they were needed.
_MAGIC = 0
_DIRTY = 1
_BOOT = 2
_SIZE = 3  # words that are in use
_RUNNING = 4  # sum of the slots
_WINDOW = 5  # of the request log, as last used, in nanoseconds
_REQUESTS = 8
_TOKENS = _REQUESTS + HEADER_WORDS
_SLOTS = 64  # by worker: epoch << 32 | running requests
_HEADER_WORDS = 512

_WORD_BYTES = 8
_FORMAT = 0x7667_6C69_6D00_0001  # changes with the layout
_COUNT_MASK = (1 << 32) - 1

_libc_flock = ctypes.PyDLL(None).flock
_libc_flock.argtypes = (ctypes.c_int, ctypes.c_int)
_LOCK_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB

# How often a lock that is held is tried before its end is slept for, and the processor left to
# others in between. Its holder has it for 3 us; going to sleep and being woken, often in vain, as
# another was faster, takes 40 us. If it lasts, the holder is not running, and needs a processor.
_SPINS = 30
_YIELDS = 20


class LimitFile:
    """One key's shared memory; ``with file:`` is the critical section.

    Raises:
        OSError: The file can't be made, or the disk is full.
    """

    def __init__(self, path: Path, *, boot: int, now_ns: int) -> None:
        nothing = memoryview(b"").cast("q")
        self.requests = SlidingLog(nothing, _REQUESTS)
        self.tokens = SlidingLog(nothing, _TOKENS)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_size < _HEADER_WORDS * _WORD_BYTES:
                os.posix_fallocate(self._fd, 0, _HEADER_WORDS * _WORD_BYTES)
            self._map()
            # Stamps of another boot mean nothing: the clock began again.
            if self._words[_MAGIC] != _FORMAT or self._words[_BOOT] != boot:
                self._format(boot, now_ns)
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

    def _format(self, boot: int, now_ns: int) -> None:
        words = self._words
        words[_MAGIC] = 0  # killed from here on, it is formatted again
        words[:_HEADER_WORDS] = memoryview(bytes(_HEADER_WORDS * _WORD_BYTES)).cast("q")
        self.requests.clear(now_ns)
        self.tokens.clear(now_ns)
        words[_SIZE] = _HEADER_WORDS
        words[_BOOT] = boot
        words[_MAGIC] = _FORMAT

    def __enter__(self) -> Self:
        if _libc_flock(self._fd, _LOCK_NOW):
            self._wait_for_lock()
        try:
            if self._words[_SIZE] > self._mapped:  # another worker made it larger
                self._map()
            if self._words[_DIRTY]:
                self._recount()
            self._words[_DIRTY] = 1
        except BaseException:
            self._unlock()
            raise
        return self

    def _wait_for_lock(self) -> None:
        for attempt in range(_SPINS + _YIELDS):
            if not _libc_flock(self._fd, _LOCK_NOW):
                return
            if attempt >= _SPINS:
                os.sched_yield()
        # Also if it failed for another reason than being held: this raises it.
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _unlock(self) -> None:
        _libc_flock(self._fd, fcntl.LOCK_UN)

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
            self._unlock()

    def _recount(self) -> None:
        self.requests.recount()
        self.tokens.recount()
        words = self._words
        slots = words[_SLOTS : _SLOTS + MAX_WORKER + 1]
        words[_RUNNING] = sum(slot & _COUNT_MASK for slot in slots)

    def make_room(self, log: SlidingLog, capacity: int) -> None:
        """See to it that `log` has room for so many entries. It never shrinks.

        A larger ring is made at the end of the file and the old one is left behind: the file and
        its lock stay the same for everybody, and the switch is one store.
        """
        if log.capacity >= capacity:
            return
        at = self._words[_SIZE]
        size = at + words_for(capacity)
        os.posix_fallocate(self._fd, 0, size * _WORD_BYTES)
        if size > self._mapped:
            self._map()
        self._words[_SIZE] = size
        log.move(at, capacity)

    @property
    def running(self) -> int:
        """Requests of this key that run now, in all workers."""
        return self._words[_RUNNING]

    @property
    def window_ns(self) -> int:
        """The request window that was last in force."""
        return self._words[_WINDOW]

    @window_ns.setter
    def window_ns(self, window_ns: int) -> None:
        self._words[_WINDOW] = window_ns

    def start(self, worker: int) -> int:
        """Count one more running request of `worker`; return the epoch to `finish` it with."""
        words = self._words
        slot = words[_SLOTS + worker] + 1
        words[_SLOTS + worker] = slot
        words[_RUNNING] += 1
        return slot >> 32

    def finish(self, worker: int, epoch: int) -> None:
        """Count one less, unless the worker's requests have been dropped in between."""
        words = self._words
        slot = words[_SLOTS + worker]
        if slot >> 32 == epoch and slot & _COUNT_MASK:
            words[_SLOTS + worker] = slot - 1
            words[_RUNNING] -= 1

    def drop(self, worker: int) -> None:
        """Forget the running requests of a worker that is gone.

        The new epoch keeps it from finishing them after all, should it live on for a moment.
        """
        words = self._words
        slot = words[_SLOTS + worker]
        words[_SLOTS + worker] = ((slot >> 32) + 1) << 32
        words[_RUNNING] -= slot & _COUNT_MASK

    def close(self) -> None:
        """Let go of the file; the memory goes with the last reference."""
        os.close(self._fd)
