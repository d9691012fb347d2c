"""Budgets of tokens for a calendar day or month (UTC), exact over all workers.

What a key has used in the period comes from the ledger; after that it is counted in a file that all
workers map, together with what their running requests have reserved. A budget is never exceeded:
a request begins only if the most that it may use fits. When a worker is killed, its reservations go
with it; what it had not counted is not in the ledger either.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

import msgspec

from vgate.config.runtime import MAX_WORKER
from vgate.frontend.access.limiter.file import Life
from vgate.keys import ApiKey, BudgetPeriod

_LIVES = "workers"

# Words of a key's file.
_PERIOD = 0  # the ordinal of its first day, and its kind; 0 if the next two mean nothing
_USED = 1
_RESERVED = 2  # by worker
_WORDS = _RESERVED + MAX_WORKER + 1
_WORD_BYTES = 8


class Budget(msgspec.Struct, frozen=True):
    """So many tokens in each period."""

    tokens: int
    period: BudgetPeriod

    @classmethod
    def of(cls, key: ApiKey) -> "Budget | None":
        """Return a key's budget."""
        return None if key.budget_tokens is None else cls(key.budget_tokens, key.budget_period)

    def began(self, today: date) -> date:
        """Return the first day of the period."""
        return today if self.period == "day" else today.replace(day=1)

    def next_begins(self, today: date) -> datetime:
        """Return when it begins anew."""
        first = self.began(today) + timedelta(days=1 if self.period == "day" else 32)
        day = first if self.period == "day" else first.replace(day=1)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)

    def number(self, today: date) -> int:
        """Return the period's number, which no other one has."""
        return 2 * self.began(today).toordinal() + (self.period == "month")


class Budgets:
    """One worker's access to what all keys have used and reserved.

    Args:
        directory: Where the files are, one for each key; made if it is missing.
        worker: This worker's number, as a limiter has it.
        used_since: Returns the tokens that a key has used since a day, from the ledger.
        today: Returns the day (UTC).

    Raises:
        OSError: A file can't be made or the ledger read. Every method may raise it.
    """

    def __init__(
        self,
        directory: Path,
        worker: int,
        used_since: Callable[[str, date], int],
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        (directory / _LIVES).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._place = _RESERVED + worker
        self._used_since = used_since
        self.today = today
        self._life = Life(directory / _LIVES, worker)
        for path in directory.iterdir():
            if path.is_file():
                with _opened(path) as words:
                    words[self._place] = 0

    def reserve(self, key: str, budget: Budget, tokens: int) -> int | None:
        """Reserve tokens; return None, or how many are left if these are too many."""
        with _opened(self._path(key)) as words:
            left = self._left(words, key, budget)
            if tokens > left:
                self._drop_dead(words)
                left = self._left(words, key, budget)
            if tokens > left:
                return max(0, left)
            words[self._place] += tokens
        return None

    def settle(
        self,
        key: str,
        budget: Budget | None,
        reserved: int,
        used: int,
        count: Callable[[date], None],
    ) -> None:
        """Replace reserved tokens by those that were used, while `count` puts them in the ledger.

        `budget` is the key's as it is now. `count` adds the used tokens to the ledger, on the day
        that it gets.
        """
        today = self.today()
        with _opened(self._path(key)) as words:
            # Whoever begins a period reads the ledger, and has either both or neither.
            if budget is not None and words[_PERIOD] == budget.number(today):
                words[_USED] += used
            count(today)
            words[self._place] -= reserved

    def used(self, key: str, budget: Budget) -> int:
        """Return what a key has used and reserved in the period."""
        with _opened(self._path(key)) as words:
            self._drop_dead(words)
            return budget.tokens - self._left(words, key, budget)

    def counted(self, key: str, budget: Budget) -> int:
        """Return what a key has used in the period, without what is reserved."""
        with _opened(self._path(key)) as words:
            self._left(words, key, budget)
            return words[_USED]

    def begin_anew(self, key: str) -> None:
        """Have the use read from the ledger, because the budget was another one until now."""
        path = self._path(key)
        if path.exists():
            with _opened(path) as words:
                words[_PERIOD] = 0

    def close(self) -> None:
        """Give up what this worker has reserved."""
        self._life.close()

    def _left(self, words: "memoryview[int]", key: str, budget: Budget) -> int:
        today = self.today()
        number = budget.number(today)
        if words[_PERIOD] != number:
            words[_PERIOD] = 0
            words[_USED] = self._used_since(key, budget.began(today))
            words[_PERIOD] = number
        return budget.tokens - words[_USED] - sum(words[_RESERVED:_WORDS])

    def _drop_dead(self, words: "memoryview[int]") -> None:
        for place in range(_RESERVED, _WORDS):
            if words[place]:
                with self._life.ended(place - _RESERVED) as ended:
                    if ended:
                        words[place] = 0

    def _path(self, key: str) -> Path:
        return self._directory / blake2b(key.encode(), digest_size=16).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator["memoryview[int]"]:
    """Open a file, and lock it against all other workers."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_size < _WORDS * _WORD_BYTES:
            os.posix_fallocate(fd, 0, _WORDS * _WORD_BYTES)
        size = _WORDS * _WORD_BYTES
        with mmap.mmap(fd, size) as memory, memoryview(memory).cast("q") as words:
            yield words
    finally:
        os.close(fd)
