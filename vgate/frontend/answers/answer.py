"""The two kinds of answers: one collected whole, one written to the client as it comes.

Both read tokens with the same `Choice` in the same way, so that streaming changes nothing about the
text, the end reason or the counts. They are driven by the engine client's callbacks and wake the
request's coroutine once, at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from vgate.errors import InternalError, VGateError
from vgate.frontend.answers.choice import Choice
from vgate.frontend.answers.encoder import ChoiceDelta, StreamEncoder
from vgate.frontend.answers.result import Result, TokenCounts
from vgate.frontend.engines.sequence import Sequence, detach
from vgate.frontend.http.waits import ClientDisconnected
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.log import Log

log = Log("vgate.frontend")

_FAULT = "answer failed"

# Makes the choice that reads a sequence.
MakeChoice = Callable[[Sequence], Choice]


class Stream(Protocol):
    """An open HTTP response."""

    def write(self, data: bytes) -> None:
        """Send bytes without waiting."""


class Answer:
    """What all answers share: their sequences, the end, and giving up.

    Args:
        loop: The event loop.
        make_choice: Makes the choice of a sequence, whose index says which.
        prompt_tokens: Lengths of the prompts.
        choices_each: Choices for each prompt.
        abort: Stops sequences in the engine.
    """

    # Streams are many, and each is looked at after every step, by when nothing of it is in the
    # processor's caches: the fewer places it has in memory the better.
    __slots__ = (
        "_abort",
        "_choices_each",
        "_left",
        "_make_choice",
        "_prompt_tokens",
        "choices",
        "done",
        "first_token_at",
        "touched",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_choice: MakeChoice,
        prompt_tokens: list[int],
        choices_each: int,
        abort: Callable[[list[Sequence]], None],
    ) -> None:
        self.touched = False
        self.first_token_at: float | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        count = len(prompt_tokens) * choices_each
        self.choices = [make_choice(Sequence(self, index)) for index in range(count)]
        self._make_choice = make_choice
        self._prompt_tokens = prompt_tokens
        self._choices_each = choices_each
        self._abort = abort
        self._left = len(self.choices)

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences to submit."""
        return [choice.sequence for choice in self.choices]

    @property
    def counts(self) -> TokenCounts:
        """Token counts so far."""
        choices, each = self.choices, self._choices_each
        if len(choices) == 1:
            alone = choices[0]
            cached_tokens = alone.sequence.cached_tokens
            return TokenCounts(
                self._prompt_tokens[0], alone.tokens, cached_tokens, alone.reasoning_tokens
            )
        return TokenCounts(
            sum(self._prompt_tokens),
            sum(choice.tokens for choice in choices),
            # A prompt is looked up once for each of its choices, and read once.
            sum(
                max(choice.sequence.cached_tokens for choice in choices[first : first + each])
                for first in range(0, len(choices), each)
            ),
            sum(choice.reasoning_tokens for choice in choices),
        )

    @property
    def coalesced(self) -> bool:
        """Whether it shares the sequences of an identical request."""
        return any(choice.sequence.coalesced for choice in self.choices)

    @property
    def buffered(self) -> bool:
        """Whether nothing is done with tokens until the last has come."""
        return False

    def result(self) -> Result:
        """Return the complete answer."""
        return Result([choice.finished() for choice in self.choices], self.counts)

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
            log.exception(_FAULT)
            self.fail(_fault())

    def restart(self, sequence: Sequence) -> bool:
        """Forget what came of a sequence, which begins anew; False if the client has seen of it."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """End the answer with an error, once; what still runs for it is stopped."""
        if not self.done.done():
            self.done.set_exception(error)
            self._abort(self.sequences)

    def give_up(self) -> None:
        """End the answer because its client is gone."""
        self.fail(ClientDisconnected())

    def close(self) -> None:
        """Let go of what holds it in turn. Nothing comes for its sequences any more."""
        self.done = detach(self.sequences, self.done)

    def _take(self) -> None:
        raise NotImplementedError

    def _error(self) -> VGateError | None:
        for choice in self.choices:
            if choice.sequence.error is not None:
                return choice.sequence.error
        return None

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

    __slots__ = ()

    @property
    def buffered(self) -> bool:
        """Whether nothing is done with tokens until the last has come."""
        # A stop string must be found when it comes: the engine would go on.
        return not any(choice.watching for choice in self.choices)

    def restart(self, sequence: Sequence) -> bool:
        """Have a sequence begin anew: the client sees nothing before the end."""
        sequence.clear()
        # One that looks for stop strings has read tokens.
        self.choices[sequence.index] = self._make_choice(sequence)
        self.first_token_at = None
        return True

    def _take(self) -> None:
        for choice in self.choices:
            if choice.done or not (choice.watching or choice.sequence.finish_reason):
                # Nothing to look for yet: the tokens wait, and cost nothing until the end.
                continue
            if choice.plain:
                choice.take_text()
            else:
                choice.take()
            if choice.finish_reason is not None and self._end(choice):
                self.done.set_result(None)


class StreamedAnswer(Answer):
    """An answer written as server-sent events.

    The response is opened with the first token: until then an error is an HTTP status.

    Args:
        stream_encoder: Builds the events.
        open_stream: Sends the status and headers; given this.
    """

    __slots__ = ("_format", "_open_stream", "_simple", "_stream", "_unopened")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_choice: MakeChoice,
        prompt_tokens: list[int],
        choices_each: int,
        abort: Callable[[list[Sequence]], None],
        *,
        stream_encoder: StreamEncoder,
        open_stream: Callable[[StreamedAnswer], Stream],
    ) -> None:
        super().__init__(loop, make_choice, prompt_tokens, choices_each, abort)
        self._format = stream_encoder
        stream_encoder.counts = lambda: self.counts
        self._open_stream = open_stream
        self._stream: Stream | None = None
        self._unopened = set(range(len(self.choices)))
        # The answer whose tokens are text and nothing else, which nearly all are.
        first = self.choices[0]
        alone = len(self.choices) == 1 and first.plain and not first.watching
        self._simple = first if alone else None

    @property
    def started(self) -> bool:
        """Whether the client has got a status and part of the answer."""
        return self._stream is not None

    def flush(self) -> None:
        """Take what the engine sent since the last call."""
        choice, stream = self._simple, self._stream
        if (
            choice is not None
            and stream is not None
            and choice.sequence.finish_reason is None
            and choice.sequence.error is None
        ):
            # The short way for nearly every token; `_take` would do the same.
            try:
                if text := choice.take_text():
                    stream.write(self._format.text(0, text))
            except Exception:
                log.exception(_FAULT)
                self.fail(_fault())
        else:
            super().flush()

    def restart(self, sequence: Sequence) -> bool:
        """Have a sequence begin anew, unless tokens of it were read: those were shown at once."""
        if sequence.generated:
            # What was not read will be generated again.
            sequence.pending, sequence.logprobs = [], []
            return False
        sequence.clear()
        return True

    def fail(self, error: Exception) -> None:
        """End the stream with an error event, once; nothing follows that would look like an end."""
        if self.started and not self.done.done() and isinstance(error, VGateError):
            self._open().write(self._format.error(error))
        self._simple = None
        super().fail(error)

    def close(self) -> None:
        """Let go of what holds it in turn. Nothing comes for its sequences any more."""
        super().close()
        del self._format.counts

    def _take(self) -> None:
        if not self.started and self.first_token_at is None:
            # Joined a sequence that has no token yet.
            return
        out = [] if self.started else [self._format.begin()]
        ended = False
        for choice in self.choices:
            sequence = choice.sequence
            if choice.done or not (sequence.pending or sequence.finish_reason):
                continue
            index = sequence.index
            if self._unopened and index in self._unopened:
                self._unopened.remove(index)
                out.append(self._format.open(index, sequence.prompt_logprobs))
            if choice.plain:
                text = choice.take_text()
                if text:
                    out.append(self._format.text(index, text))
            elif (piece := choice.take()) is not None:
                out.append(self._format.delta(index, piece))
            if choice.finish_reason is not None:
                ended = self._end(choice)
                out.append(self._format.finish(index, choice.finish_reason, choice.stop_reason))
        if ended:
            out.append(self._format.end())
        if out:
            # What came together leaves together.
            self._open().write(b"".join(out))
        if ended:
            self.done.set_result(None)

    def _open(self) -> Stream:
        if self._stream is None:
            self._stream = self._open_stream(self)
        return self._stream


def _fault() -> InternalError:
    """Return the end of an answer by a fault of ours, which is nobody else's."""
    return InternalError("internal error; the log has the details")


def replay(stream_encoder: StreamEncoder, answer: Result) -> bytes:
    """Return the events of a finished answer: a piece for each choice, since all of it is there."""
    stream_encoder.counts = lambda: answer.counts
    out = [stream_encoder.begin()]
    for index, choice in enumerate(answer.choices):
        out.append(stream_encoder.open(index, choice.prompt_logprobs))
        made = enumerate(choice.tool_calls)
        calls = tuple(ToolCallDelta(i, call.id, call.name, call.arguments) for i, call in made)
        piece = ChoiceDelta(choice.text, choice.reasoning, calls, choice.logprobs, choice.token_ids)
        if any(piece):
            out.append(stream_encoder.delta(index, piece))
        out.append(stream_encoder.finish(index, choice.finish_reason, choice.stop_reason))
    out.append(stream_encoder.end())
    return b"".join(out)
