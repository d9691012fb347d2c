"""The two kinds of answers: one collected whole, one written to the client as it comes.

Both turn tokens into text with the same `Detokenizer` in the same way, so that streaming changes
nothing about the text, the finish reason or the counts. They are driven by the engine client's
callbacks and wake the request's coroutine once, at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from vgate.errors import InternalError, VGateError
from vgate.frontend.detokenizer import Detokenizer
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.openai.chat import DONE, ChunkFrames, Usage, error_frame
from vgate.frontend.result_cache import CachedAnswer, CachedChoice
from vgate.frontend.sequence import Sequence
from vgate.log import Log
from vgate.wire.messages import FinishReason

log = Log("vgate.frontend")

_encode_text = msgspec.json.Encoder().encode


class Stream(Protocol):
    """An open HTTP response."""

    def write(self, data: bytes) -> None:
        """Send bytes without waiting."""


class Choice:
    """One sequence of an answer, with its text."""

    __slots__ = ("detokenizer", "done", "finish_reason", "pieces", "sequence")

    def __init__(self, sequence: Sequence, detokenizer: Detokenizer) -> None:
        self.sequence = sequence
        self.detokenizer = detokenizer
        self.pieces: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.done = False

    def take(self) -> str:
        """Turn what has come into text; sets `finish_reason` with the last of it."""
        sequence, detokenizer = self.sequence, self.detokenizer
        pending, sequence.pending = sequence.pending, []
        ended = sequence.finish_reason
        if ended == "stop" and pending:
            # The engine stopped at a stop token: it counts, and it isn't text.
            text = detokenizer.feed(pending[:-1])
            if not detokenizer.stopped:
                detokenizer.skip()
        else:
            text = detokenizer.feed(pending)
        if detokenizer.stopped:
            self.finish_reason = "stop"
        elif ended is not None:
            text += detokenizer.finish()
            self.finish_reason = ended
        if text:
            self.pieces.append(text)
        return text


class Answer:
    """What all answers share: their sequences, the end, and giving up.

    Args:
        loop: The event loop.
        detokenizers: One for each choice that the client asked for.
        prompt_tokens: Length of the prompt.
        abort: Stops sequences in the engine.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        detokenizers: list[Detokenizer],
        prompt_tokens: int,
        abort: Callable[[list[Sequence]], None],
    ) -> None:
        self.touched = False
        self.first_token_at: float | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.choices = [Choice(Sequence(self, i), d) for i, d in enumerate(detokenizers)]
        self.prompt_tokens = prompt_tokens
        self._abort = abort
        self._left = len(self.choices)

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences to submit."""
        return [choice.sequence for choice in self.choices]

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        completion = sum(choice.detokenizer.tokens for choice in self.choices)
        cached = max(choice.sequence.cached_tokens for choice in self.choices)
        return Usage.of(self.prompt_tokens, completion, cached)

    @property
    def joined(self) -> bool:
        """Whether it shares the sequences of an identical request."""
        return any(choice.sequence.joined for choice in self.choices)

    def text(self, index: int) -> str:
        """Return the text of a choice so far."""
        return "".join(self.choices[index].pieces)

    def result(self) -> CachedAnswer:
        """Return the complete answer."""
        usage = self.usage
        return CachedAnswer(
            [
                CachedChoice(self.text(index), choice.finish_reason or "stop")
                for index, choice in enumerate(self.choices)
            ],
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details.cached_tokens,
        )

    def flush(self) -> None:
        """Take what the engine sent since the last call."""
        if self.done.done():
            return
        if self.first_token_at is None and any(c.sequence.pending for c in self.choices):
            self.first_token_at = time.monotonic()
        try:
            if (error := self._error()) is not None:
                self.fail(error)
            else:
                self._take()
        except Exception:
            log.exception("answer failed")
            self.fail(InternalError("internal error; the log has the details"))

    def fail(self, error: Exception) -> None:
        """End the answer with an error, once; what still runs for it is stopped."""
        if not self.done.done():
            self.done.set_exception(error)
            self._abort(self.sequences)

    def give_up(self) -> None:
        """End the answer because its client is gone."""
        self.fail(ClientDisconnected())

    def _take(self) -> None:
        raise NotImplementedError

    def _error(self) -> VGateError | None:
        return next((c.sequence.error for c in self.choices if c.sequence.error), None)

    def _end(self, choice: Choice) -> bool:
        """Note that a choice is complete; True if it was the last."""
        choice.done = True
        if choice.sequence.finish_reason is None:
            # A stop string ended it here; the engine would go on.
            self._abort([choice.sequence])
        self._left -= 1
        return self._left == 0


class WholeAnswer(Answer):
    """An answer for a request that is not streamed."""

    def _take(self) -> None:
        for choice in self.choices:
            sequence = choice.sequence
            if choice.done or not (choice.detokenizer.watching or sequence.finish_reason):
                # Nothing to look for yet: the tokens wait, and cost nothing until the end.
                continue
            choice.take()
            if choice.finish_reason is not None and self._end(choice):
                self.done.set_result(None)


class StreamedAnswer(Answer):
    """An answer written as server-sent events.

    The response is opened with the first token: until then an error is an HTTP status.

    Args:
        frames: Builds the events.
        open_stream: Sends the status and headers.
        include_usage: Whether the client wants the usage at the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        detokenizers: list[Detokenizer],
        prompt_tokens: int,
        abort: Callable[[list[Sequence]], None],
        *,
        frames: ChunkFrames,
        open_stream: Callable[[], Stream],
        include_usage: bool,
    ) -> None:
        super().__init__(loop, detokenizers, prompt_tokens, abort)
        self._frames = frames
        self._prefixes = [frames.prefix(i) for i in range(len(self.choices))]
        self._suffix = frames.suffix
        self._open_stream = open_stream
        self._include_usage = include_usage
        self._stream: Stream | None = None

    @property
    def started(self) -> bool:
        """Whether the client has got a status and part of the answer."""
        return self._stream is not None

    def fail(self, error: Exception) -> None:
        """End the stream with an error event, once; no [DONE] follows."""
        if self.started and not self.done.done() and isinstance(error, VGateError):
            self._open().write(error_frame(error))
        super().fail(error)

    def _take(self) -> None:
        out: list[bytes] = []
        if not self.started:
            if self.first_token_at is None:
                # Joined a sequence that has no token yet.
                return
            out += [self._frames.role(i) for i in range(len(self.choices))]
        ended = False
        for choice in self.choices:
            sequence = choice.sequence
            if choice.done or not (sequence.pending or sequence.finish_reason):
                continue
            index = sequence.index
            text = choice.take()
            if text:
                out += (self._prefixes[index], _encode_text(text), self._suffix)
            if choice.finish_reason is not None:
                out.append(self._frames.finish(index, choice.finish_reason))
                ended = self._end(choice)
        if ended:
            if self._include_usage:
                out.append(self._frames.usage(self.usage))
            out.append(DONE)
        if out:
            # What came together leaves together.
            self._open().write(b"".join(out))
        if ended:
            self.done.set_result(None)

    def _open(self) -> Stream:
        if self._stream is None:
            self._stream = self._open_stream()
        return self._stream
