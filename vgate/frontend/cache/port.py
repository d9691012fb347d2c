"""What every store of results guarantees, wherever it keeps them."""

from collections.abc import Callable
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


class StoredResponse(msgspec.Struct, frozen=True):
    """A stored response of the Responses API, as JSON.

    Attributes:
        conversation: The input items up to and with its output.
        body: The response itself.
        new_item_ids: Ids of the items that no earlier response has.
    """

    conversation: bytes
    body: bytes
    new_item_ids: list[str] = []


class ResponseStore(Protocol):
    """The stored responses of all workers; a key sees only its own.

    No method raises: a store that can't be reached finds nothing and keeps nothing.
    """

    async def get(self, key: str, response_id: str) -> StoredResponse | None:
        """Return a key's response, if there is one."""

    async def get_item(self, key: str, item_id: str) -> StoredResponse | None:
        """Return the response that has a new item, if it is the key's."""

    def put(
        self, key: str, response_id: str, size_bytes: int, encode: Callable[[], StoredResponse]
    ) -> bool:
        """Store a response soon; return whether that is likely. It may be dropped at any time.

        Args:
            key: Name of the API key that it belongs to.
            response_id: Its id.
            size_bytes: About how large it is.
            encode: Returns it; called once, on another thread.
        """

    async def delete(self, key: str, response_id: str) -> bool:
        """Delete a key's response; return whether there was one."""


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
