"""The ledger: an SQLite database of what each key used of each model on each day (UTC).

A file of counts has totals, and the ledger keeps the totals of each file as they were last. So to
fold a file twice changes nothing, whenever its process, the launcher or the machine has stopped. A
complete file becomes part of the sum in one transaction, which also notes its name, and is deleted
afterwards.

Several instances may share a ledger on one machine.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vgate.usage.counts import FIELDS, Name, Snapshot, Used, snapshots

if TYPE_CHECKING:
    import sqlite3

DATABASE = "usage.db"
COUNTS = "usage"

_BUSY_S = 10.0
_BY = ("key", "model", "day")
_SUM = ""  # the source of what is folded for good

_COLUMNS = ", ".join(FIELDS)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, source TEXT NOT NULL,
    {", ".join(f"{field} INTEGER NOT NULL" for field in FIELDS)},
    PRIMARY KEY (key, day, model, source)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folded (source TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# A machine that crashed may have an older file than the ledger knows.
_LATEST = ", ".join(f"{field} = max({field}, excluded.{field})" for field in FIELDS)
_PUT = f"""
INSERT INTO usage (day, key, model, source, {_COLUMNS})
VALUES (?, ?, ?, ?, {", ".join("?" * len(FIELDS))})
ON CONFLICT DO UPDATE SET {_LATEST}
"""  # noqa: S608 - our own names
_ADDED = ", ".join(f"{field} = {field} + excluded.{field}" for field in FIELDS)
_ADD = f"""
INSERT INTO usage (day, key, model, source, {_COLUMNS})
SELECT day, key, model, '{_SUM}', {_COLUMNS} FROM usage WHERE source = ?
ON CONFLICT DO UPDATE SET {_ADDED}
"""  # noqa: S608 - our own names
_ROWS = f"""
SELECT day, key, model, source, {_COLUMNS} FROM usage
WHERE day BETWEEN :first AND :last AND (:key IS NULL OR key = :key)
"""  # noqa: S608 - our own names

_IS_MADE = "SELECT count(*) FROM sqlite_master WHERE name = 'folded'"

_values = msgspec.structs.astuple


class LedgerError(Exception):
    """The ledger can't be read or written; the message says which, and why."""


class Row(msgspec.Struct, frozen=True):
    """A line of the use; None stands for all keys, models or days."""

    key: str | None
    model: str | None
    day: str | None
    used: Used

    @property
    def flat(self) -> dict[str, Any]:
        """The row as `GET /v1/usage` has it."""
        names = {"key": self.key, "model": self.model, "day": self.day}
        return {**names, **msgspec.structs.asdict(self.used)}


class Folder:
    """Folds counts into the ledger of a state directory, made if it is missing; for one thread."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._known: dict[str, dict[Name, Used]] = {}

    def fold(self) -> None:
        """Fold what has changed since the last time; delete the files that are complete.

        Raises:
            LedgerError: That is impossible now. Nothing is lost.
        """
        with _explained(self._state, "write"):
            found = list(snapshots(self._state / COUNTS))
            news = [each for each in found if each.complete or self._has_news(each)]
            if news:
                with closing(_open(self._state)) as database:
                    self._put(database, news)
            # Of those that others have deleted nothing more is needed.
            self._known = {each.source: each.totals for each in found if not each.complete}
            for each in news:
                if each.complete:
                    each.path.unlink(missing_ok=True)

    def _has_news(self, each: Snapshot) -> bool:
        return each.totals != self._known.get(each.source, {})

    def _put(self, database: "sqlite3.Connection", news: list[Snapshot]) -> None:
        # The files of complete ones are deleted, so their sum must be on the disk by then.
        complete = [each.source for each in news if each.complete]
        database.execute(f"PRAGMA synchronous = {'FULL' if complete else 'NORMAL'}")
        database.execute("BEGIN IMMEDIATE")
        with database:
            done = _folded(database)
            for each in news:
                if each.source in done:
                    continue
                known = {} if each.complete else self._known.get(each.source, {})
                rows = [item for item in each.totals.items() if known.get(item[0]) != item[1]]
                database.executemany(
                    _PUT,
                    [
                        (day, key, model, each.source, *_values(used))
                        for (key, model, day), used in rows
                    ],
                )
            for source in complete:
                if source not in done:
                    database.execute("INSERT INTO folded VALUES (?)", [source])
                    database.execute(_ADD, [source])
                    database.execute("DELETE FROM usage WHERE source = ?", [source])


def read_usage(
    state: Path,
    by: Collection[str] = _BY,
    *,
    since: date = date.min,
    until: date = date.max,
    key: str | None = None,
) -> list[Row]:
    """Return the use up to this moment, of a key or of all, from a first to a last day.

    `by` says what to tell apart: "key", "model", "day". The state directory is not changed.

    Raises:
        LedgerError: The ledger can't be read.
    """
    first, last = since.isoformat(), until.isoformat()
    sums: defaultdict[tuple[str | None, str | None, str | None], Used] = defaultdict(Used)
    with _explained(state, "read"):
        # Files before the database: one that is folded meanwhile is found there, by its name.
        found = list(snapshots(state / COUNTS, key))
        for name, used in _latest(state, found, {"first": first, "last": last, "key": key}):
            if first <= name[2] <= last:
                of, model, day = (
                    part if column in by else None for column, part in zip(_BY, name, strict=True)
                )
                sums[of, model, day] += used
    rows = [Row(*group, used) for group, used in sums.items()]
    return sorted(rows, key=lambda row: (row.day or "", row.key or "", row.model or ""))


def _latest(
    state: Path, found: list[Snapshot], which: dict[str, str | None]
) -> Iterator[tuple[Name, Used]]:
    """Yield the parts of the use: those in the database, and of files what is newer."""
    totals = {(each.source, *name): used for each in found for name, used in each.totals.items()}
    if (state / DATABASE).exists():
        with closing(_open_to_read(state)) as database:
            database.execute("BEGIN")  # all queries see the same
            if not database.execute(_IS_MADE).fetchone()[0]:  # it is being made
                yield from ((place[1:], used) for place, used in totals.items())
                return
            done = _folded(database)
            totals = {place: used for place, used in totals.items() if place[0] not in done}
            for day, key, model, source, *values in database.execute(_ROWS, which):
                newer = totals.pop((source, key, model, day), Used())
                used = Used(*map(max, zip(values, _values(newer), strict=True)))
                yield (key, model, day), used
    yield from ((place[1:], used) for place, used in totals.items())


def _folded(database: "sqlite3.Connection") -> set[str]:
    return {source for (source,) in database.execute("SELECT source FROM folded")}


def _open(state: Path) -> "sqlite3.Connection":
    import sqlite3

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Its owner's, as the counts are: who could read one of both would be shown a part of the use.
    os.close(os.open(state / DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(state / DATABASE, timeout=_BUSY_S, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _open_to_read(state: Path) -> "sqlite3.Connection":
    import sqlite3

    uri = (state / DATABASE).absolute().as_uri()

    def connected(how: str) -> "sqlite3.Connection":
        return sqlite3.connect(f"{uri}?{how}", uri=True, timeout=_BUSY_S, isolation_level=None)

    database = connected("mode=ro")
    try:
        database.execute(_IS_MADE)
    except sqlite3.OperationalError:
        # Where it can't write, SQLite opens only what is said not to change. What is being written
        # is in a log beside it, with which the first way works.
        database.close()
        database = connected("immutable=1")
    except sqlite3.Error:
        database.close()
        raise
    return database


@contextmanager
def _explained(state: Path, what: str) -> Iterator[None]:
    # Most frontends read no ledger and are spared it: 1 MiB.
    import sqlite3

    try:
        yield
    except OSError as error:
        raise LedgerError(f"cannot {what} {error.filename or state}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise LedgerError(f"cannot {what} {state / DATABASE}: {error}") from None
