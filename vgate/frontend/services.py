"""What endpoints work with: ports and plain values, put together in `vgate.frontend.app`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from vgate.frontend.engines.port import Models
from vgate.frontend.pipeline.port import Pipeline


class CacheFigures(Protocol):
    """What is shown of this process's result cache."""

    def __len__(self) -> int:
        """Return the number of entries."""

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take."""

    @property
    def evictions(self) -> int:
        """Entries that made room for others."""

    @property
    def expirations(self) -> int:
        """Entries that were found too old."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The services of one frontend process.

    Attributes:
        pipeline: Answers generations.
        models: The served models.
        cache: What is shown of the result cache.
        limits: Returns how each API key's limits stand.
        config: The effective configuration as builtin types, secrets hidden.
        backend: Name of the engine backend.
        started: Unix time of the instance's start, in seconds.
        max_body_bytes: The largest body of a request.
    """

    pipeline: Pipeline
    models: Models
    cache: CacheFigures
    limits: Callable[[], list[dict[str, Any]]]
    config: dict[str, Any]
    backend: str
    started: float
    max_body_bytes: int
