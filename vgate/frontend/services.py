"""What endpoints work with: ports and plain values, put together in `vgate.frontend.app`."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from vgate.frontend.cache.port import ResponseStore, StoreUsage
from vgate.frontend.engines import Models
from vgate.frontend.http import HttpRequest, LongWork
from vgate.frontend.pipeline import Pipeline


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The services of one frontend process.

    Attributes:
        cache: Returns the size of this process's result cache.
        limits: Returns the use of the limits of each API key that a request may be told of.
        sees_all: Whether a request may be told of all keys and of the configuration.
        config: The effective configuration as builtin types, secrets hidden.
        backend: Name of the engine backend.
        responses: Where responses are stored; None if none are.
        started: Unix time of the instance's start, in seconds.
    """

    pipeline: Pipeline
    work: LongWork
    models: Models
    cache: Callable[[], StoreUsage]
    limits: Callable[[HttpRequest], Awaitable[list[dict[str, Any]]]]
    sees_all: Callable[[HttpRequest], bool]
    config: dict[str, Any]
    backend: str
    started: float
    responses: ResponseStore | None = None
