"""Tells streams that wait for their model how far it is loaded.

It does so in comments, which every client skips. A stream is opened for them before there is an
answer.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from vgate.frontend.answers.answer import Write
from vgate.frontend.engines.residency import Residence, situation
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http import EVENT_STREAM, HttpRequest
from vgate.frontend.http.waits import Divert, OpenStream

STREAM_HEADERS = [EVENT_STREAM, ("cache-control", "no-cache"), ("x-accel-buffering", "no")]
# How soon a stream is told, and how soon again if there is something new.
_SOON_S = 1.0


class Notices:
    """Tells the streams of one worker that wait for models what is going on.

    Args:
        interval_s: How long a stream may send nothing; 0: none is told anything.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._sweep_s = min(_SOON_S, interval_s)
        self._told: dict[BaseAnswer, _Told] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: BaseAnswer, model: ServedModel, name: str, write: Write) -> None:
        """Tell a request, if it waits for its model, by comments that `write` gets.

        In them the model has the name that the request may use.
        """
        if not self._interval_s or model.residence is None or answer not in model.residence:
            return
        if self._timer is None:
            self._timer = self._loop.call_later(self._sweep_s, self._sweep)
        self._told[answer] = _Told(model, name, write)

    def discard(self, answer: BaseAnswer) -> None:
        """Forget a request that has ended, or waits no more."""
        self._told.pop(answer, None)

    def _sweep(self) -> None:
        told = self._told
        self._timer = self._loop.call_later(self._sweep_s, self._sweep) if told else None
        now = time.monotonic()
        places: dict[Residence, dict[object, int]] = {}
        for answer, each in list(told.items()):
            residence = each.model.residence
            if residence is None or answer not in residence or answer.done.done():
                del told[answer]
                continue
            if residence not in places:
                places[residence] = residence.places()
            words = situation(each.name, each.model.state, places[residence][answer])
            if words != each.words or now - each.at >= self._interval_s:
                each.words, each.at = words, now
                each.write(b": " + " ".join(words.split()).encode() + b"\n")


class _Told(msgspec.Struct):
    model: ServedModel
    name: str
    write: Write
    words: str = ""
    at: float = 0.0


class EarlyStream:
    """A stream that is opened before there is an answer, which takes it over."""

    def __init__(self, http: HttpRequest) -> None:
        self._divert: Divert | None = None
        self._stream = http.open_stream(STREAM_HEADERS, self._divert_it)

    def write(self, data: bytes) -> None:
        """Send whole events, or comments."""
        self._stream.write(data)

    def take_over(self, divert: Divert | None) -> OpenStream:
        """Return the stream for an answer, whose further writes `divert` diverts."""
        self._divert = divert
        return self._stream

    def _divert_it(self, through: Callable[[Write], Write]) -> None:
        if self._divert is not None:
            self._divert(through)
        else:
            self._stream.write = through(self._stream.write)


def open_stream(http: HttpRequest, divert: Divert | None = None, size: int = 0) -> OpenStream:
    """Open the response's stream, unless it was opened while the request waited for its model."""
    early, http.early = http.early, None
    if early is not None:
        stream: OpenStream = early.take_over(divert)
        return stream
    return http.open_stream(STREAM_HEADERS, divert, size)


def speak(http: HttpRequest, comment: bytes) -> None:
    """Send a comment in a stream that has no answer yet."""
    if http.early is None:
        http.early = EarlyStream(http)
    http.early.write(comment + b"\n")
