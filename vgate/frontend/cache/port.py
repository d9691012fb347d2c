"""What every store of results guarantees, wherever it keeps them."""

from typing import Protocol

import msgspec

from vgate.frontend.answers import Result


class StoreUsage(msgspec.Struct, frozen=True):
    """What a store holds, and what it dropped, as far as this worker knows.

    Attributes:
        evictions: Results dropped to make room.
        expirations: Results dropped because they were too old.
    """

    entries: int = 0
    size_bytes: int = 0
    evictions: int = 0
    expirations: int = 0


class ResultStore(Protocol):
    """One worker's access to finished results.

    No method raises: a store that can't be reached finds nothing and keeps nothing.
    """

    async def get(self, digest: bytes) -> Result | None:
        """Return the stored result; None if there is none or it is too old."""

    async def put(self, digest: bytes, result: Result) -> None:
        """Store a complete result, replacing an earlier one. It may be dropped at any time."""

    def usage(self) -> StoreUsage:
        """Return what the store holds, without a round trip."""

    def close(self) -> None:
        """Release all resources. Called once, at process exit, after the loop has stopped."""
