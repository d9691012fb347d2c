"""What the traces of requests are told of a generated answer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec


class Phases(NamedTuple):
    """When the phases of an answer began, in `time.monotonic` seconds; None for what never did.

    Attributes:
        submitted: The engine got the request.
        started: It left the engine's queue.
        first_token: Its first token arrived.
        calls: The first tool call was read.
        ended: Its last token arrived, or it failed.
        shared: It shares the sequence of an earlier request, and has no queue of its own.
    """

    submitted: float | None
    started: float | None
    first_token: float | None
    calls: float | None
    ended: float
    shared: bool


class Generated(msgspec.Struct, frozen=True):
    """A generated answer.

    Attributes:
        request, response: Attributes of the request's span; None stands for none.
        called: Names of the tools that were called.
    """

    request: Mapping[str, Any]
    response: Mapping[str, Any]
    phases: Phases
    called: list[str]
