"""Streams that a client can take up again, in any worker, after it has lost its connection.

Another worker gets the tokens of the sequences, but not the events that were sent. So these streams
read one token at a time: then their events depend on the tokens alone, and not on how these were
divided into steps. The events are numbered.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from vgate.errors import VGateError
from vgate.frontend.answers.answer import StreamedAnswer
from vgate.frontend.answers.encoder import KEEP_ALIVE_COMMENT, ChoiceDelta, StreamEncoder
from vgate.frontend.answers.result import FinishReason, TokenCounts
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.ids import Ids
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import FinishReason as EngineReason

# Tokens of a stream that are read at once: each takes some 60 microseconds, and most of a stream
# may come together.
_AT_ONCE = 16
# What all streams of a worker read in one turn of the event loop, and if the rest of the turn takes
# twice as long: they would pile up.
_TURN_S = 0.001
_LONGEST_TURN_S = 0.004
# The part of an answer that belongs to no choice.
FRAME = -1


class NumberedEvents:
    """A `StreamEncoder` that numbers another one's events, and leaves out those that were sent.

    The choices of an answer don't take turns, so each has its own numbers, and an event's id has
    them all: ``<stream>:<number>.<number>``. What belongs to no choice has the first one's.

    Args:
        encoder: Encodes the events.
        stream: The stream's id.
        ids: The ids in its events.
        received: How many events of each choice the client has.
    """

    def __init__(self, encoder: StreamEncoder, stream: str, ids: Ids, received: list[int]) -> None:
        self._encoder = encoder
        self._stream = stream.encode()
        self._ids = ids
        # What the client has, which may be ahead of what was made again.
        self._received = received
        self._made = [0] * len(received)

    @property
    def begun(self) -> bool:
        """Whether the client may have an event, and so knows where it is."""
        return any(self._received)

    @property
    def keep_alive(self) -> bytes:
        """An event without a meaning, which has no number."""
        # After an event with an id, OpenAI's Python client reads a comment and an empty line as an
        # event without data, and fails. A comment needs no empty line.
        return self._encoder.keep_alive.replace(KEEP_ALIVE_COMMENT, KEEP_ALIVE_COMMENT[:-1])

    @property
    def counts(self) -> Callable[[], TokenCounts]:
        """Return the token counts so far."""
        return self._encoder.counts

    @counts.setter
    def counts(self, counts: Callable[[], TokenCounts]) -> None:
        self._encoder.counts = counts

    @counts.deleter
    def counts(self) -> None:
        del self._encoder.counts

    def begin(self) -> bytes:
        """Return the first events of the stream."""
        with self._ids.of(FRAME):
            return self._numbered(0, self._encoder.begin())

    def open(self, index: int, prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return the first events of a choice."""
        with self._ids.of(index):
            return self._numbered(index, self._encoder.open(index, prompt_logprobs))

    def text(self, index: int, text: str) -> bytes:
        """Return text of a choice."""
        with self._ids.of(index):
            return self._numbered(index, self._encoder.text(index, text))

    def delta(self, index: int, piece: ChoiceDelta) -> bytes:
        """Return a delta that is more than text."""
        with self._ids.of(index):
            return self._numbered(index, self._encoder.delta(index, piece))

    def finish(
        self,
        index: int,
        finish_reason: FinishReason,
        stop_reason: int | str | None,
        last: ChoiceDelta | None = None,
    ) -> bytes:
        """Return the last events of a choice."""
        with self._ids.of(index):
            end = self._encoder.finish(index, finish_reason, stop_reason, last)
            return self._numbered(index, end)

    def end(self) -> bytes:
        """Return the last events of a complete answer."""
        with self._ids.of(FRAME):
            return self._numbered(0, self._encoder.end())

    def error(self, error: VGateError) -> bytes:
        """Return the last events of an answer that failed; they are not what a replay has."""
        return self._encoder.error(error)

    def _numbered(self, index: int, events: bytes) -> bytes:
        received, out = self._received, []
        # Data is JSON, in which no line ends.
        for event in events.split(b"\n\n")[:-1]:
            self._made[index] += 1
            if self._made[index] > received[index]:
                received[index] += 1
                place = ".".join(map(str, received)).encode()
                out.append(b"id: %b:%b\n%b\n\n" % (self._stream, place, event))
        return b"".join(out)


class _Unread:
    """What has come of a sequence and is not read yet."""

    __slots__ = ("error", "finish_reason", "logprobs", "tokens")

    def __init__(self) -> None:
        self.tokens: deque[int] = deque()
        self.logprobs: deque[Logprobs] = deque()
        self.finish_reason: EngineReason | None = None
        self.error: VGateError | None = None

    @property
    def is_left(self) -> bool:
        """Whether there is more to read."""
        return bool(self.tokens or self.error)


class Readers:
    """The resumable answers that have something to read, in the order of their turns.

    A token that is read by itself costs ten times what one of many costs. So a worker that is
    behind with many such streams would be held up by them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[ResumableAnswer, None] = {}
        self._scheduled = False
        # Of the reading in this turn of the loop, and when that of the last one ended.
        self._ends = self._left_at = 0.0

    def add(self, answer: "ResumableAnswer") -> None:
        """Let an answer read: now, or when it is its turn."""
        if not self._scheduled:
            self._begin(_TURN_S)
        if answer in self._waiting:
            return
        if self._waiting or perf_counter() >= self._ends or answer.read():
            self._waiting[answer] = None

    def discard(self, answer: "ResumableAnswer") -> None:
        """Forget an answer that has ended."""
        self._waiting.pop(answer, None)

    def _begin(self, turn_s: float) -> None:
        self._scheduled, self._ends = True, perf_counter() + turn_s
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        if not self._waiting:
            self._left_at = 0.0
            return
        others_s = perf_counter() - self._left_at if self._left_at else 0.0
        # An error in one answer must not keep the others from reading.
        self._begin(min(max(_TURN_S, others_s / 2), _LONGEST_TURN_S))
        while self._waiting:
            answer = next(iter(self._waiting))
            del self._waiting[answer]
            if answer.read():
                self._waiting[answer] = None
            if perf_counter() >= self._ends:
                break
        self._left_at = perf_counter()


class ResumableAnswer(StreamedAnswer):
    """A stream that goes on for a while when its client is gone.

    Args:
        arguments: As for `StreamedAnswer`, without the encoder.
        readers: Says when it reads.
        events: Encodes and numbers the events.
        keep_s: How long it goes on.
    """

    __slots__ = ("_away", "_events", "_keep_s", "_loop", "_readers", "_unread")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *arguments: Any,
        readers: Readers,
        events: NumberedEvents,
        keep_s: float,
        **named: Any,
    ) -> None:
        super().__init__(loop, *arguments, stream_encoder=events, **named)
        self._loop = loop
        self._readers = readers
        self._events = events
        self._keep_s = keep_s
        self._away: asyncio.TimerHandle | None = None
        self._unread = [_Unread() for _ in self.sequences]

    def give_up(self) -> None:
        """Go on for a while without the client, if that knows where to take the stream up."""
        if not self._events.begun:
            super().give_up()
        elif self._away is None and not self.done.done():
            self._away = self._loop.call_later(self._keep_s, super().give_up)

    def flush(self) -> None:
        """Take the new output of the sequences, and read it in this answer's turns."""
        if self.done.done():
            return
        for sequence, unread in self._reading():
            _set_aside(sequence, unread)
        self._readers.add(self)

    def read(self) -> bool:
        """Read a token of each sequence at a time, a few of them; return whether more is left."""
        if self.done.done():
            return False
        reading = self._reading()
        # New tokens may have come that wait to be flushed: they are not the next ones.
        for sequence, unread in reading:
            _set_aside(sequence, unread)
        for _ in range(max(1, _AT_ONCE // len(self.choices))):
            for sequence, unread in reading:
                _next(sequence, unread)
            super().flush()
            if self.done.done() or not any(unread.is_left for _, unread in reading):
                return False
        return True

    def _reading(self) -> list[tuple[Sequence, _Unread]]:
        # One that is repeated in another engine is not read until it is back where it was.
        return [
            (choice.sequence, unread)
            for choice, unread in zip(self.choices, self._unread, strict=True)
            if not choice.done
        ]

    def restart(self, sequence: Sequence) -> bool:
        """Reset a sequence; False if tokens of it were read, and so sent."""
        self._unread[sequence.index] = _Unread()
        return super().restart(sequence)

    def close(self) -> None:
        """Break the reference cycles, and let go of the response. Call it last."""
        super().close()
        self._readers.discard(self)
        if self._away is not None:
            self._away.cancel()
            self._away = None


def _set_aside(sequence: Sequence, unread: _Unread) -> None:
    unread.tokens += sequence.pending
    unread.logprobs += sequence.logprobs
    unread.finish_reason = unread.finish_reason or sequence.finish_reason
    unread.error = unread.error or sequence.error
    sequence.pending, sequence.logprobs = [], []
    sequence.finish_reason = sequence.error = None


def _next(sequence: Sequence, unread: _Unread) -> None:
    """Let the answer see the next token, and with the last one what came after it."""
    if unread.tokens:
        sequence.pending.append(unread.tokens.popleft())
    if unread.logprobs:
        sequence.logprobs.append(unread.logprobs.popleft())
    if not unread.tokens:
        sequence.finish_reason = unread.finish_reason
        # A stop string in the last token counts first.
        if not sequence.pending:
            sequence.error, unread.error = unread.error, None
