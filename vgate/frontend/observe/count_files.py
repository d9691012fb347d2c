"""The files with the workers' counts: one of each kind for each worker, mapped into its memory.

prometheus_client maps files with holes, and a store into a hole on a full disk is a SIGBUS. Here a
file is allocated before it is mapped. Where that fails, this worker counts in memory: `/metrics` of
other workers shows its last written counts until there is room again.
"""

import json
import mmap
import os
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import MmapedDict, _read_all_values
from prometheus_client.multiprocess import MultiProcessCollector

from vgate.log import Log

_FIRST_BYTES = 1 << 16
_EMPTY_BYTES = 8  # the header: an int, and padding
_VALUE_BYTES = 16
_pack_value = struct.Struct("dd").pack
_MOST_ENTRY_BYTES = 32  # besides the key
_UNREADABLE = (OSError, ValueError, RuntimeError, struct.error)

# This process's files by their paths, and the foreign ones that were reported as unreadable.
_own: dict[str, "CountFile"] = {}
_reported: set[str] = set()

log = Log("vgate.frontend")


class CountFile(MmapedDict):
    """Counts by their keys, in a file or, if the disk is full, in memory.

    `problem` says why they are in memory; None if they are in the file.
    """

    def __init__(self, filename: str) -> None:
        self.problem: str | None = None
        _own[filename] = self
        try:
            _drop_unreadable(filename)
            _allocate(filename, _FIRST_BYTES)
            super().__init__(filename)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._f: Any = None
            self._fname = filename
            self._positions: dict[str, int] = {}
            self._m, self._used = mmap.mmap(-1, _FIRST_BYTES), _EMPTY_BYTES
            self._m[:4] = struct.pack("i", self._used)
            self._capacity = _FIRST_BYTES
            self._report(error)

    def _init_value(self, key: str) -> None:
        capacity = self._capacity
        while self._used + len(key.encode()) + _MOST_ENTRY_BYTES > capacity:
            capacity *= 2
        if capacity > self._capacity and not self._move_to_file(capacity):
            larger = mmap.mmap(-1, capacity)
            larger[: self._used] = self._m[: self._used]
            self._m, self._capacity = larger, capacity
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a count, in one piece: others may read it at the same time."""
        if (at := self._positions.get(key)) is None:
            self._init_value(key)
            at = self._positions[key]
        self._m[at : at + _VALUE_BYTES] = _pack_value(value, timestamp)

    def save(self) -> None:
        """Move the counts back to the file if there is room again."""
        if self.problem is not None and self._move_to_file(self._capacity):
            self.problem = None
            log.info("counts are written to the run directory again", file=self._fname)

    def _move_to_file(self, capacity: int) -> bool:
        """Write all counts to the file and map it, with a new size; False if there is no room."""
        try:
            _allocate(self._fname, capacity)
            with Path(self._fname).open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), capacity)
        except OSError as error:
            self._report(error)
            return False
        # The header last: it says how much of the rest others may read.
        mapped[_EMPTY_BYTES : self._used] = self._m[_EMPTY_BYTES : self._used]
        mapped[:_EMPTY_BYTES] = self._m[:_EMPTY_BYTES]
        self._m, self._capacity = mapped, capacity
        return True

    def _report(self, error: OSError) -> None:
        if self.problem is None:
            self.problem = f"{self._fname}: {error.strerror}"
            log.warning("counts are kept in memory", file=self._fname, error=error.strerror)

    def in_memory(self) -> list[tuple[str, float, float, int]]:
        """Return the counts, as `read_all_values_from_file` does."""
        used = self._used  # first, as another thread may make it larger
        return list(_read_all_values(self._m[:used], used))  # type: ignore[no-untyped-call]

    @staticmethod
    def read_all_values_from_file(filename: str) -> Iterable[tuple[str, float, float, int]]:
        """Return a file's keys, values, timestamps and positions; none if it is unreadable."""
        own = _own.get(filename)
        try:
            return _read(filename) if own is None or own.problem is None else own.in_memory()
        except _UNREADABLE as error:
            # Its worker removes it at its next start.
            if filename not in _reported:
                _reported.add(filename)
                log.warning("skipped an unreadable file of counts", file=filename, error=error)
            return []


def use() -> None:
    """Have prometheus_client use these files. Call it before metrics are made."""
    modules: tuple[Any, ...] = values, multiprocess
    for module in modules:
        module.MmapedDict = CountFile


def in_memory_because() -> list[str]:
    """Return why counts of this process are in memory only; nothing if they aren't."""
    return [file.problem for file in _own.values() if file.problem is not None]


def save() -> None:
    """Write counts that are in memory to their file if there is room again. Not for threads."""
    for file in _own.values():
        file.save()


class AllWorkers(MultiProcessCollector):
    """Collects the counts of all workers, dead ones included."""

    def collect(self) -> Any:
        """Return all families."""
        paths = {*map(str, Path(self._path).glob("*.db")), *_own}
        return self.merge(sorted(paths))  # type: ignore[no-untyped-call]


def _read(filename: str) -> list[tuple[str, float, float, int]]:
    with Path(filename).open("rb") as file:
        header = file.read(_EMPTY_BYTES)
    if not header:
        return []  # it is being created, or its worker was killed then
    (used,) = struct.unpack_from("i", header)
    if used and not _EMPTY_BYTES <= used <= Path(filename).stat().st_size:
        raise ValueError("its header is wrong")
    found = list(MmapedDict.read_all_values_from_file(filename))  # type: ignore[no-untyped-call]
    for key, *_ in found:
        _check_key(key)
    return found


@cache
def _check_key(key: str) -> None:
    name, sample, labels, text = json.loads(key)
    if not (isinstance(labels, dict) and all(isinstance(x, str) for x in (name, sample, text))):
        raise ValueError("not a key")


def _drop_unreadable(filename: str) -> None:
    try:
        if Path(filename).exists():
            _read(filename)
    except _UNREADABLE as error:
        Path(filename).unlink()
        log.warning("removed an unreadable file of counts", file=filename, error=error)


def _allocate(filename: str, size: int) -> None:
    """Create a file or make it larger, in full."""
    fd = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(fd).st_size
        try:
            os.posix_fallocate(fd, 0, max(size, before))
        except OSError:
            os.ftruncate(fd, before)
            raise
    finally:
        os.close(fd)
