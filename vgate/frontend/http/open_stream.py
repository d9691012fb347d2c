"""A response that is sent in parts."""

from collections.abc import Callable
from typing import Any


class OpenStream:
    """A response whose body is still being written."""

    __slots__ = ("write",)

    def __init__(self, transport: Any) -> None:
        # Sends without waiting; does nothing after the client left.
        self.write: Callable[[bytes], None] = transport.send_bytes

    def close(self) -> None:
        """End the body: granian does that when the transport is freed, so release it now."""
        self.write = _discard


def _discard(_data: bytes) -> None:
    """Write to a stream that has ended."""
