"""The file in which one process counts: totals by key, model and day, exact however it dies.

The file is mapped. A total has two places; the other one is written, and then one store of a word
makes it the valid one. So a process that is killed between any two stores has counted a request
as a whole or not at all. The kernel writes the file to the disk; only a crash of the machine may
lose what it had not written yet.

The process locks its file as long as it lives. A file that can be locked is complete.
"""

import fcntl
import json
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from operator import add
from pathlib import Path
from typing import Self
from uuid import uuid4

import msgspec

from vgate.log import Log

SUFFIX = ".counts"
_DRAFT = ".draft"

# Words of the file; the records follow.
_MAGIC, _SIZE, _HEADER_WORDS = 0, 1, 2
_FORMAT = 0x7667_7573_6500_0001  # changes with the layout
# Words of a record; its name follows, as JSON padded with spaces.
_LENGTH, _CHANGES, _TOTALS = 0, 1, 2

_WORD_BYTES = 8
_FIRST_WORDS = 4096
_RETRY_S = 1.0

Name = tuple[str, str, str]  # key, model, day

log = Log("vgate.frontend")


_values = msgspec.structs.astuple


class Used(msgspec.Struct, frozen=True, gc=False):
    """What requests used.

    Attributes:
        cached_tokens: Those of the prompts that the engine had in its prefix cache.
        reasoning_tokens: Those of the completions that are reasoning.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    errors: int = 0

    def __add__(self, other: Self) -> "Used":
        return Used(*map(add, _values(self), _values(other)))

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


FIELDS = Used.__struct_fields__
_NOTHING = Used()
_NAME = _TOTALS + 2 * len(FIELDS)
_put_values = struct.Struct(f"{len(FIELDS)}q").pack_into


class CountsFile:
    """Counts of this process. Where they can't be written, they are in memory until they can.

    Args:
        directory: Where the file is made; the directory as well, if it is missing.

    Attributes:
        problem: Why counts are in memory only; None if all are in the file.
    """

    def __init__(self, directory: Path) -> None:
        self.problem: str | None = None
        self._directory = directory
        self._day = ""
        self._totals: dict[Name, Used] = {}
        self._at: dict[Name, int] = {}
        self._fd = -1
        self._retry_at = 0.0
        self._words = memoryview(b"").cast("q")

    def add(self, key: str, model: str, day: date, used: Used) -> None:
        """Add what a request used."""
        name = key, model, day.isoformat()
        if self.problem is None and (name[2] != self._day or self._is_deleted()):
            # Otherwise a process that lives for years would carry all days with it. What somebody
            # has deleted is counted as far as it was folded.
            self.close()
            self._day = name[2]
        self._totals[name] = self._totals.get(name, _NOTHING) + used
        if self.problem is None:
            self._write([name])
        elif time.monotonic() >= self._retry_at:
            self.save()

    def save(self) -> None:
        """Write counts that are in memory, if that is possible again."""
        if self.problem is None:
            return
        self._retry_at = time.monotonic() + _RETRY_S
        before, self.problem = self.problem, None
        self._write(list(self._totals), before)
        if self.problem is None:
            log.info("use is counted on the disk again", directory=str(self._directory))

    def close(self) -> None:
        """Leave the file to whoever folds it; a further count begins another one."""
        self.save()
        if self.problem is not None:
            self._tell_lost()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._totals, self._at, self._words = {}, {}, memoryview(b"").cast("q")

    def _tell_lost(self) -> None:
        written = dict(_parse(self._words, None)) if self._fd >= 0 else {}
        missing = [(total, written.get(name, _NOTHING)) for name, total in self._totals.items()]
        log.error(
            "use is lost, as it could not be written",
            requests=sum(total.requests - known.requests for total, known in missing),
            tokens=sum(total.tokens - known.tokens for total, known in missing),
            reason=self.problem,
        )

    def _is_deleted(self) -> bool:
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def _write(self, names: list[Name], before: str | None = None) -> None:
        try:
            if self._fd < 0:
                self._create()
            for name in names:
                self._write_one(name)
        except OSError as error:
            self.problem = f"{self._directory}: {error.strerror}"
            self._retry_at = time.monotonic() + _RETRY_S
            if before is None:
                log.warning("use is counted in memory", reason=self.problem)

    def _write_one(self, name: Name) -> None:
        at = self._at.get(name)
        if at is None:
            at = self._append(name)
        words, totals = self._words, self._totals[name]
        changes = words[at + _CHANGES] + 1
        place = at + _TOTALS + (changes & 1) * len(FIELDS)
        _put_values(words, place * _WORD_BYTES, *_values(totals))
        words[at + _CHANGES] = changes  # from here on they are the valid ones

    def _append(self, name: Name) -> int:
        text = json.dumps(name).encode()
        text += b" " * (-len(text) % _WORD_BYTES)
        length = _NAME + len(text) // _WORD_BYTES
        at = self._words[_SIZE]
        if at + length > len(self._words):
            self._map(max(2 * len(self._words), at + length))
        words = self._words
        words[at + _LENGTH] = length
        words[at + _NAME : at + length] = memoryview(text).cast("q")
        words[_SIZE] = at + length
        self._at[name] = at
        return at

    def _create(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{uuid4().hex}{SUFFIX}"
        draft = path.with_suffix(_DRAFT)
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._map(_FIRST_WORDS)
            self._words[_SIZE] = _HEADER_WORDS
            self._words[_MAGIC] = _FORMAT
            draft.rename(path)  # only now does anyone look at it
        except OSError:
            os.close(self._fd)
            self._fd, self._at, self._words = -1, {}, memoryview(b"").cast("q")
            with suppress(OSError):
                draft.unlink()
            raise

    def _map(self, words: int) -> None:
        # Allocated before it is mapped: a store into a hole on a full disk is a SIGBUS.
        os.posix_fallocate(self._fd, 0, words * _WORD_BYTES)
        self._words = memoryview(mmap.mmap(self._fd, words * _WORD_BYTES)).cast("q")


class Snapshot(msgspec.Struct, frozen=True):
    """What a file held at a moment.

    Attributes:
        source: The file's own name, which no other file ever gets.
        complete: Its process is gone, so this is all.
    """

    path: Path
    source: str
    complete: bool
    totals: dict[Name, Used]


def snapshots(directory: Path, key: str | None = None) -> Iterator[Snapshot]:
    """Yield what each file of a directory holds, of one key if it is given.

    There may be no such directory. Files of another format are left alone.

    Raises:
        OSError: The directory or a file can't be read.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return
    for path in paths:
        try:
            # Not to wait for a writer, if it is a pipe.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:  # it was folded just now
            continue
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue
            # First, so that nothing is added to what is read of a complete one.
            complete, words = _is_complete(fd), _words(_read(fd))
            if len(words) >= _HEADER_WORDS and words[_MAGIC] == _FORMAT:
                yield Snapshot(path, path.stem, complete, dict(_parse(words, key)))
        finally:
            os.close(fd)


def _is_complete(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # such as BlockingIOError
        return False
    return True


def _read(fd: int) -> bytes:
    """Read a file that its process may be writing: until it is the same twice, or three times."""
    content = b""
    for _ in range(3):
        before, content = content, os.pread(fd, os.fstat(fd).st_size, 0)
        if before == content:
            break
    return content


def _words(content: bytes) -> "memoryview[int]":
    return memoryview(content[: len(content) // _WORD_BYTES * _WORD_BYTES]).cast("q")


def _parse(words: "memoryview[int]", key: str | None) -> Iterator[tuple[Name, Used]]:
    """Yield the totals, up to the first that a crash of the machine has damaged."""
    start = b"" if key is None else json.dumps([key])[:-1].encode() + b","
    at, end = _HEADER_WORDS, min(words[_SIZE], len(words))
    while at + _NAME < end and _NAME < words[at + _LENGTH] <= end - at:
        length = words[at + _LENGTH]
        text = words[at + _NAME : at + length].tobytes()
        if text.startswith(start):
            try:
                found, model, day = json.loads(text)
                date.fromisoformat(day)
            except (ValueError, TypeError):
                return
            place = at + _TOTALS + (words[at + _CHANGES] & 1) * len(FIELDS)
            yield (found, model, day), Used(*words[place : place + len(FIELDS)])
        at += length
