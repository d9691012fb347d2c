"""Stored responses, in an SQLite file that all workers share and that outlives a restart.

A worker writes and reads on a thread of its own, so the file's disk holds up no request but those
that need it. Writers take turns by SQLite's lock.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from vgate.config.schema import Responses
from vgate.frontend.cache.port import StoredResponse
from vgate.frontend.observe import metrics
from vgate.log import Log

if TYPE_CHECKING:
    import sqlite3

_VERSION = 1  # of these tables; a file of a later one is left alone
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, size INTEGER NOT NULL,
    conversation BLOB NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_age ON responses (created);
CREATE INDEX IF NOT EXISTS by_key ON responses (key, created);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, response TEXT NOT NULL REFERENCES responses ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS by_response ON items (response);
-- What each key has; adding it up would read every response for each new one.
CREATE TABLE IF NOT EXISTS used (
    key TEXT PRIMARY KEY, entries INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON responses BEGIN
    INSERT INTO used VALUES (new.key, 1, new.size)
    ON CONFLICT (key) DO UPDATE SET entries = entries + 1, size = size + excluded.size;
END;
CREATE TRIGGER IF NOT EXISTS deleted AFTER DELETE ON responses BEGIN
    UPDATE used SET entries = entries - 1, size = size - old.size WHERE key = old.key;
END;
"""
# Of keys that have the same, the one with the oldest response.
_OLDEST_OF_LARGEST = """
SELECT rowid, size FROM responses WHERE key = (
    SELECT key FROM used ORDER BY size DESC,
    (SELECT MIN(created) FROM responses WHERE responses.key = used.key) LIMIT 1
) ORDER BY created LIMIT 1
"""
_LOCK_TIMEOUT_S = 5
# Another worker may still be writing what its client has just received.
_ATTEMPTS = 4
_PAUSE_S = 0.1
# A disk that is slower than the responses come gets no more than this to write.
_MAX_WAITING = 1000
_MAX_WAITING_BYTES = 64 * 1024 * 1024
_LOG_PAUSE_S = 60
_TOO_LARGE = "it is larger than responses.max_bytes"

log = Log("vgate.frontend")

_T = TypeVar("_T")


def stored_responses(
    loop: asyncio.AbstractEventLoop, config: Responses, run_dir: str
) -> "SqliteResponses | None":
    """Return where responses are stored; None if none are."""
    if not config.store:
        return None
    return SqliteResponses(loop, config, Path(config.file or Path(run_dir, "responses.db")))


class SqliteResponses:
    """A `ResponseStore`; it drops what is too old first, then what a key has too many of.

    If there are too many bytes, the key with the most of them loses its oldest.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Responses, path: Path) -> None:
        self._loop = loop
        self._config = config
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")
        self._connection: sqlite3.Connection | None = None
        # Whether the last write failed.
        self._failing = False
        # Both threads change what follows, under the lock.
        self._lock = threading.Lock()
        self._waiting = 0
        self._waiting_bytes = 0
        self._not_logged = 0
        self._next_log = 0.0

    async def get(self, key: str, response_id: str) -> StoredResponse | None:
        """Return a key's response, if there is one."""
        query = "SELECT conversation, body FROM responses WHERE id = ? AND key = ? AND created > ?"
        return await self._find(query, response_id, key)

    async def get_item(self, key: str, item_id: str) -> StoredResponse | None:
        """Return the response that has a new item, if it is the key's."""
        query = (
            "SELECT conversation, body FROM responses JOIN items ON items.response = responses.id "
            "WHERE items.id = ? AND key = ? AND created > ?"
        )
        return await self._find(query, item_id, key)

    async def _find(self, query: str, id_: str, key: str) -> StoredResponse | None:
        def find() -> tuple[bytes, bytes] | None:
            oldest = time.time() - self._config.ttl_s
            row: tuple[bytes, bytes] | None = (
                self._open().execute(query, (id_, key, oldest)).fetchone()
            )
            return row

        for attempt in range(_ATTEMPTS):
            row = await self._run(find)
            if row is not None:
                return StoredResponse(*row)
            if attempt < _ATTEMPTS - 1:
                await asyncio.sleep(_PAUSE_S)
        return None

    def put(
        self, key: str, response_id: str, size_bytes: int, encode: Callable[[], StoredResponse]
    ) -> bool:
        """Store a response soon; return whether that is likely.

        If it fails, the log and a metric say so, and it isn't found.
        """
        if size_bytes > self._config.max_bytes:
            return self._dropped(_TOO_LARGE)
        with self._lock:
            full = (
                self._waiting >= _MAX_WAITING
                or self._waiting_bytes + size_bytes > _MAX_WAITING_BYTES
            )
            if not full:
                self._waiting += 1
                self._waiting_bytes += size_bytes
        if full:
            return self._dropped("the disk is slow and too many wait to be written")

        def write() -> None:
            try:
                self._write(key, response_id, encode())
                self._failing = False
            except Exception as error:  # noqa: BLE001 - nobody waits for it
                self._failing = True
                self._dropped(error)
            finally:
                with self._lock:
                    self._waiting -= 1
                    self._waiting_bytes -= size_bytes

        self._thread.submit(write)
        # While the disk is full, the next one will most likely fail too.
        return not self._failing

    def _write(self, key: str, response_id: str, stored: StoredResponse) -> None:
        size = len(stored.conversation) + len(stored.body)
        if size > self._config.max_bytes:
            self._dropped(_TOO_LARGE)
            return
        connection = self._open()
        with connection:
            added = connection.execute(
                # A stream that was taken up may have been finished by its first connection too.
                "INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?, ?)",
                (response_id, key, time.time(), size, stored.conversation, stored.body),
            )
            if not added.rowcount:
                return
            connection.executemany(
                "INSERT OR REPLACE INTO items VALUES (?, ?)",
                [(item_id, response_id) for item_id in stored.new_item_ids],
            )
            self._make_room(connection, key)

    def _dropped(self, reason: Exception | str) -> Literal[False]:
        """Count a response that isn't stored, and say so in the log, but not for each of many."""
        # A closed loop, at the end of the process, counts no more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(metrics.NOT_STORED.inc)
        with self._lock:
            self._not_logged += 1
            now = time.monotonic()
            if now < self._next_log:
                return False
            self._next_log = now + _LOG_PAUSE_S
            responses, self._not_logged = self._not_logged, 0
        log.error("responses can't be stored", reason=reason, responses=responses)
        return False

    async def delete(self, key: str, response_id: str) -> bool:
        """Delete a key's response; return whether there was one."""

        def delete() -> bool:
            connection = self._open()
            with connection:
                query = "DELETE FROM responses WHERE id = ? AND key = ?"
                return connection.execute(query, (response_id, key)).rowcount > 0

        return bool(await self._run(delete))

    def close(self) -> None:
        """Write what is still to be written, and close the file."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T | None:
        try:
            return await self._loop.run_in_executor(self._thread, work)
        except _errors() as error:
            log.error("stored responses can't be read", reason=error)
            return None

    def _open(self) -> "sqlite3.Connection":
        # A frontend that stores no response is spared it: 1 MiB.
        import sqlite3

        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives the files beside it the mode that it has by then.
            with open(self._path, "ab") as file:  # noqa: PTH123 - as a descriptor
                os.fchmod(file.fileno(), 0o600)
            connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S)
            try:
                self._prepare(connection)
            except _errors():
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: "sqlite3.Connection") -> None:
        # SQLite doesn't wait for another worker that changes a new file to a WAL just then.
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                ((version,),) = connection.execute("PRAGMA user_version").fetchall()
                if version > _VERSION:
                    raise OSError(f"{self._path} is of a later version of V-Gate: move it away")
                connection.executescript(_SCHEMA)
                if version < _VERSION:  # nothing is written to a full disk by those who only read
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
            except _errors() as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _make_room(self, connection: "sqlite3.Connection", key: str) -> None:
        config = self._config
        oldest = time.time() - config.ttl_s
        connection.execute("DELETE FROM responses WHERE created <= ?", (oldest,))
        query = "SELECT entries FROM used WHERE key = ?"
        ((entries,),) = connection.execute(query, (key,)).fetchall()
        if entries > config.max_entries_per_key:
            connection.execute(
                "DELETE FROM responses WHERE rowid IN (SELECT rowid FROM responses WHERE key = ? "
                "ORDER BY created LIMIT ?)",
                (key, entries - config.max_entries_per_key),
            )
        ((total,),) = connection.execute("SELECT SUM(size) FROM used")
        while total > config.max_bytes:
            ((row, size),) = connection.execute(_OLDEST_OF_LARGEST).fetchall()
            connection.execute("DELETE FROM responses WHERE rowid = ?", (row,))
            total -= size


def _errors() -> tuple[type[Exception], ...]:
    import sqlite3

    return sqlite3.Error, OSError
