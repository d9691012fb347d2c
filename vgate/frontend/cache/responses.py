"""Stored responses, in an SQLite file that all workers share and that outlives a restart.

A worker writes and reads on a thread of its own, so the file's disk holds up no request but those
that need it. Writers take turns by SQLite's lock.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from vgate.config.schema import Responses
from vgate.frontend.cache.port import StoredResponse
from vgate.log import Log

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, size INTEGER NOT NULL,
    conversation BLOB NOT NULL, body BLOB NOT NULL
);
-- With the size, so that their sum reads no row.
CREATE INDEX IF NOT EXISTS by_age ON responses (created, size);
CREATE INDEX IF NOT EXISTS by_key ON responses (key, created);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, response TEXT NOT NULL REFERENCES responses ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS by_response ON items (response);
"""
_LOCK_TIMEOUT_S = 5
# Another worker may still be writing what its client has just received.
_ATTEMPTS = 4
_PAUSE_S = 0.1

log = Log("vgate.frontend")

_T = TypeVar("_T")


class SqliteResponses:
    """A `ResponseStore`; it drops what is too old first, then a key's oldest, then the oldest.

    Args:
        loop: The event loop.
        config: The bounds.
        path: The file.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, config: Responses, path: Path) -> None:
        self._loop = loop
        self._config = config
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")
        self._connection: sqlite3.Connection | None = None

    async def get(self, key: str, response_id: str) -> StoredResponse | None:
        """Return a key's response, if there is one."""
        query = "SELECT conversation, body FROM responses WHERE id = ? AND key = ? AND created > ?"
        return await self._find(query, response_id, key)

    async def get_item(self, key: str, item_id: str) -> StoredResponse | None:
        """Return the response that has an output item, if it is the key's."""
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

    def put(self, key: str, response_id: str, item_ids: list[str], stored: StoredResponse) -> None:
        """Store a response soon; if that fails, the log says so, and it isn't found."""

        def write() -> None:
            size = len(stored.conversation) + len(stored.body)
            if size > self._config.max_bytes:
                return
            connection = self._open()
            with connection:
                connection.execute(
                    "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?)",
                    (response_id, key, time.time(), size, stored.conversation, stored.body),
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO items VALUES (?, ?)",
                    [(item_id, response_id) for item_id in item_ids],
                )
                self._make_room(connection, key)

        future = self._thread.submit(write)
        future.add_done_callback(_report)

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
        except sqlite3.Error as error:
            log.error("stored responses can't be read", reason=error)
            return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S)
            try:
                connection.executescript(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            self._path.chmod(0o600)
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _make_room(self, connection: sqlite3.Connection, key: str) -> None:
        config = self._config
        oldest = time.time() - config.ttl_s
        connection.execute("DELETE FROM responses WHERE created <= ?", (oldest,))
        connection.execute(
            "DELETE FROM responses WHERE id IN (SELECT id FROM responses WHERE key = ? "
            "ORDER BY created DESC LIMIT -1 OFFSET ?)",
            (key, config.max_entries_per_key),
        )
        ((total,),) = connection.execute("SELECT COALESCE(SUM(size), 0) FROM responses")
        while total > config.max_bytes:
            query = "SELECT id, size FROM responses ORDER BY created LIMIT 16"
            for id_, size in connection.execute(query).fetchall():
                if total > config.max_bytes:
                    connection.execute("DELETE FROM responses WHERE id = ?", (id_,))
                    total -= size


def _report(future: object) -> None:
    error = future.exception()  # type: ignore[attr-defined]
    if error is not None:
        log.error("a response can't be stored", reason=error)
