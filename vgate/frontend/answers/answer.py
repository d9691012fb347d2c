"""The two kinds of generated answers: collected for one response, and streamed as it is generated.

Both read tokens with the same `Choice` in the same way, so that streaming changes nothing about the
text, the finish reason or the counts. The engine's callbacks drive them, and they wake the
request's coroutine once, at the end.
"""

import asyncio
import time
from collections.abc import Callable

from vgate.errors import InternalError, VGateError
from vgate.frontend.answers.choice import Choice
from vgate.frontend.answers.encoder import ChoiceDelta, StreamEncoder
from vgate.frontend.answers.result import Result, TokenCounts
from vgate.frontend.engines.sequence import BaseAnswer, Sequence
from vgate.log import Log

log = Log("vgate.frontend")

_FAULT = "answer failed"
_FAULT_MESSAGE = "internal error; the log has the details"

# Makes the choice that reads a sequence, by the sequence's index.
MakeChoice = Callable[[Sequence], Choice]
# Sends bytes without waiting.
Write = Callable[[bytes], None]


class Answer(BaseAnswer):
    """An answer made of choices.

    Args:
        loop: The event loop.
        make_choice: Makes the choice that reads a sequence.
        prompt_tokens: Lengths of the prompts.
        choices_each: Choices for each prompt.
        abort: Stops sequences in the engine.

    Attributes:
        first_token_at: When the first token arrived, in `time.monotonic` seconds.
    """

    # Every stream is touched after every step, by when none of it is in the processor's caches: the
    # fewer objects it consists of the better.
    __slots__ = (
        "_abort",
        "_choices_each",
        "_left",
        "_make_choice",
        "_prompt_tokens",
        "choices",
        "first_token_at",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_choice: MakeChoice,
        prompt_tokens: list[int],
        choices_each: int,
        abort: Callable[[list[Sequence]], None],
    ) -> None:
        super().__init__(loop, len(prompt_tokens) * choices_each)
        self.first_token_at: float | None = None
        self.choices = [make_choice(sequence) for sequence in self.sequences]
        self._make_choice = make_choice
        self._prompt_tokens = prompt_tokens
        self._choices_each = choices_each
        self._abort = abort
        self._left = len(self.choices)

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
            # Each choice looks its prompt up, but the prompt counts once.
            sum(
                max(choice.sequence.cached_tokens for choice in choices[first : first + each])
                for first in range(0, len(choices), each)
            ),
            sum(choice.reasoning_tokens for choice in choices),
        )

    @property
    def coalesced(self) -> bool:
        """Whether it shares the sequences of an identical request."""
        return any(sequence.coalesced for sequence in self.sequences)

    def result(self) -> Result:
        """Return the complete answer."""
        return Result([choice.result() for choice in self.choices], self.counts)

    def flush(self) -> None:
        """Read the new output of the sequences."""
        if self.done.done():
            return
        try:
            for sequence in self.sequences:
                if sequence.pending and self.first_token_at is None:
                    self.first_token_at = time.monotonic()
                if sequence.error is not None:
                    self.fail(sequence.error)
                    return
            self._take()
        except Exception:
            log.exception(_FAULT)
            self.fail(InternalError(_FAULT_MESSAGE))

    def fail(self, error: Exception) -> None:
        """End the answer with an error and abort its sequences, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)
            self._abort(self.sequences)

    def close(self) -> None:
        """Break the reference cycles. Call it last."""
        super().close()
        for choice in self.choices:
            choice.close()

    def _take(self) -> None:
        raise NotImplementedError

    def _end(self, choice: Choice) -> bool:
        """Mark a choice as complete; return whether it was the last."""
        choice.done = True
        if choice.sequence.finish_reason is None:
            # A stop string ended it here, unknown to the engine.
            self._abort([choice.sequence])
        self._left -= 1
        return self._left == 0


class CollectedAnswer(Answer):
    """The answer to a non-streaming request."""

    __slots__ = ()

    def restart(self, sequence: Sequence) -> bool:
        """Reset a sequence, of which nothing was sent."""
        sequence.clear()
        # A choice that looks for stop strings has read tokens.
        self.choices[sequence.index].close()
        self.choices[sequence.index] = self._make_choice(sequence)
        self.first_token_at = None
        return True

    def _take(self) -> None:
        for choice in self.choices:
            if choice.done or not choice.sequence.due:
                # What need not be read one by one stays unread until the end.
                continue
            if choice.plain:
                choice.take_text()
            else:
                choice.take()
            if choice.finish_reason is not None and self._end(choice):
                self.done.set_result(None)


class StreamedAnswer(Answer):
    """An answer written as server-sent events.

    The response is opened with the first token, or by `keep_alive`: until then an error is an HTTP
    status.

    Args:
        stream_encoder: Builds the events.
        open_stream: Sends the status and headers for this answer; returns what sends the rest.
    """

    __slots__ = ("_encoder", "_open_stream", "_send", "_simple", "_unopened", "_write")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_choice: MakeChoice,
        prompt_tokens: list[int],
        choices_each: int,
        abort: Callable[[list[Sequence]], None],
        *,
        stream_encoder: StreamEncoder,
        open_stream: Callable[["StreamedAnswer"], Write],
    ) -> None:
        super().__init__(loop, make_choice, prompt_tokens, choices_each, abort)
        self._encoder = stream_encoder
        stream_encoder.counts = lambda: self.counts
        self._open_stream = open_stream
        self._write: Write | None = None
        # What `_write` was, until something is written.
        self._send: Write | None = None
        self._unopened = set(range(len(self.choices)))
        # The only choice, once it has begun, if it is text and has no stop strings, as nearly all.
        self._simple: Choice | None = None

    @property
    def started(self) -> bool:
        """Whether the status was sent."""
        return self._write is not None

    def was_quiet(self) -> bool:
        """Whether nothing was written since this was last called."""
        if self._send is not None or self._write is None:
            return True
        # Only the next write takes a detour, so no other one has to be counted.
        self._send, self._write = self._write, self._write_after_quiet
        return False

    def divert(self, through: Callable[[Write], Write]) -> None:
        """Have each further write pass through `through` of what writes now."""
        if self._send is not None:
            self._send = through(self._send)
        elif self._write is not None:
            self._write = through(self._write)

    def keep_alive(self, comment: bytes = b"") -> None:
        """Write an event without a meaning, in a stream that is opened if it was not."""
        if self.done.done():
            return
        out = comment + self._encoder.keep_alive
        try:
            if self._write is None:
                out = self._encoder.begin() + out
                self._write = self._open_stream(self)
            self._write(out)
        except Exception:
            log.exception(_FAULT)
            self.fail(InternalError(_FAULT_MESSAGE))
        self.was_quiet()  # This write does not count.

    def flush(self) -> None:
        """Read the new output of the sequences."""
        choice, write = self._simple, self._write
        if (
            choice is not None
            and write is not None
            and choice.sequence.finish_reason is None
            and choice.sequence.error is None
        ):
            # The fast path of nearly every token; `_take` would do the same.
            try:
                if text := choice.take_text():
                    write(self._encoder.text(0, text))
            except Exception:
                log.exception(_FAULT)
                self.fail(InternalError(_FAULT_MESSAGE))
        else:
            super().flush()

    def restart(self, sequence: Sequence) -> bool:
        """Reset a sequence; False if tokens of it were read, and so sent."""
        if sequence.generated:
            # Tokens that were not read will be generated again.
            sequence.pending, sequence.logprobs = [], []
            return False
        sequence.clear()
        return True

    def set_aside(self, sequence: Sequence, *, aside: bool) -> None:
        """Don't read a sequence of which tokens were read, until it is back where it was."""
        # What marks the end as well costs nothing at each token.
        self.choices[sequence.index].done = aside

    def fail(self, error: Exception) -> None:
        """End the answer with an error and, in an open stream, an error event."""
        write = self._write
        if write is not None and not self.done.done() and isinstance(error, VGateError):
            write(self._encoder.error(error))
        self._simple = None
        super().fail(error)

    def close(self) -> None:
        """Break the reference cycles, and let go of the response. Call it last."""
        super().close()
        del self._encoder.counts
        if self._write is not None:
            # The response's body ends when nothing refers to its writer any more, but a traceback
            # of the error that ended the answer may refer to the answer.
            self._write = _discard
        self._send = None

    def _write_after_quiet(self, data: bytes) -> None:
        write, self._send = self._send, None
        assert write is not None
        self._write = write
        write(data)

    def _take(self) -> None:
        write, encoder = self._write, self._encoder
        if write is None and self.first_token_at is None:
            # It shares another request's sequence, which has no token yet.
            return
        out = [] if write is not None else [encoder.begin()]
        ended = False
        for choice in self.choices:
            sequence = choice.sequence
            if choice.done or not (sequence.pending or sequence.finish_reason):
                continue
            index = sequence.index
            if self._unopened and index in self._unopened:
                out.append(self._open(choice))
            text = choice.take_text() if choice.plain else ""
            piece = None if choice.plain else choice.take()
            if (reason := choice.finish_reason) is not None:
                ended = self._end(choice)
                last = ChoiceDelta(text) if text else piece
                out.append(encoder.finish(index, reason, choice.stop_reason, last))
            elif text:
                out.append(encoder.text(index, text))
            elif piece is not None:
                out.append(encoder.delta(index, piece))
        if ended:
            out.append(encoder.end())
            self.before_end(self)
        if out:
            if write is None:
                self._write = write = self._open_stream(self)
            write(b"".join(out))
        if ended:
            self.done.set_result(None)

    def _open(self, choice: Choice) -> bytes:
        """Return the first events of a choice."""
        sequence = choice.sequence
        self._unopened.remove(sequence.index)
        if len(self.choices) == 1 and choice.plain and not choice.watching:
            self._simple = choice
        return self._encoder.open(sequence.index, sequence.prompt_logprobs)


def _discard(_data: bytes) -> None:
    """Write to a response that has ended."""
