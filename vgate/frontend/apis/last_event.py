"""Where a client takes a stream up again (WHATWG HTML, server-sent events, Last-Event-ID)."""

import re

import msgspec

from vgate.frontend.http import HttpRequest

_HEADER = "last-event-id"
_PLACE = re.compile(r"\d{1,12}(\.\d{1,12})*")


class LastEvent(msgspec.Struct, frozen=True):
    """What a client has of a stream.

    Attributes:
        stream: The stream's id.
        received: How many events of each choice it has; empty if it has none.
    """

    stream: str
    received: tuple[int, ...] = ()


def last_event(http: HttpRequest) -> LastEvent | None:
    """Return what the client has of the stream that it takes up; None if it takes up none."""
    given = http.header(_HEADER)
    if not given:
        return None
    stream, _, place = given.rpartition(":")
    if not stream or not _PLACE.fullmatch(place):
        return LastEvent(given)
    return LastEvent(stream, tuple(map(int, place.split("."))))
