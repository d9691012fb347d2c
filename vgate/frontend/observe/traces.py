"""The port to what makes traces of requests, and what it is told of a generated answer.

A trace begins with its identity, which the answer carries; its spans are made of time stamps at the
end of the request.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from vgate.frontend.http import HttpRequest


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


class Traces(Protocol):
    """Makes the traces of one worker's requests."""

    def begin(self, http: HttpRequest) -> None:
        """Give a request its place in a trace, and `http.trace` if it is sampled."""

    def finish(self, http: HttpRequest, route: str, status: int) -> None:
        """Make the spans of a request that has `http.trace` and has ended."""

    def close(self) -> None:
        """Send what is left, if that is quick."""
