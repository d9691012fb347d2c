"""What every store of results promises, wherever it keeps them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from vgate.frontend.answers.result import Result


class StoreUsage(msgspec.Struct, frozen=True):
    """What a store holds and has dropped, as far as this worker knows.

    Attributes:
        entries, size_bytes: What it holds.
        evictions: Results dropped to make room.
        expirations: Results dropped because they were too old.
    """

    entries: int = 0
    size_bytes: int = 0
    evictions: int = 0
    expirations: int = 0


class ResultStore(Protocol):
    """One worker's access to finished results, by the digest of everything that shapes them.

    No method raises: a store that can't be reached finds nothing and keeps nothing.
    """

    async def get(self, digest: bytes) -> Result | None:
        """Return the stored result; None if there is none or it is too old."""

    async def put(self, digest: bytes, result: Result) -> None:
        """Store a complete result, in place of an earlier one. It may be dropped at any time."""

    def usage(self) -> StoreUsage:
        """Return what the store holds, without a round trip."""

    def close(self) -> None:
        """Release what is held. Called once, when the process ends and its loop has stopped."""
