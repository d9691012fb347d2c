"""One generated sequence as a frontend sees it, and the answer that it belongs to."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vgate.errors import DeadlineExceededError, VGateError, from_code
from vgate.frontend.engines.output.gaps import StreamGaps
from vgate.frontend.http.waits import ClientDisconnected
from vgate.frontend.routing import Ticket
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Delta, Embed, Failure, FinishReason, Generate
from vgate.wire.progress import Timing

# How often deadlines are checked.
SWEEP_S = 0.25
# The request field of a failure's subject. Those of "prompt" and "constraint" depend on the API;
# every other subject has the field's name.
_FIELDS = {"adapter": "model"}


class Reader(Protocol):
    """What reads a sequence's output: its answer, or what stands before it for a while.

    Attributes:
        touched: It has tokens that it has not read, and is on a list of those to flush.
    """

    touched: bool

    def flush(self) -> None:
        """Read the new output of the sequences: of a batch of messages, or of several."""

    def restart(self, sequence: "Sequence") -> bool:
        """Reset a sequence so that it can start again; False if some output was already sent."""


@dataclass(slots=True, eq=False, repr=False)
class Sequence:
    """A sequence that runs in an engine.

    The engine's handle fills `pending`, `finish_reason`, `cached_tokens`, `coalesced`, `error` and,
    if they were asked for, `logprobs` (one for each pending token) and `prompt_logprobs`; the
    answer empties them in `flush`. Prompt and tokens so far stay with the frontend, so that a
    sequence can be resumed on another engine.

    Attributes:
        message: The request to the engine, from its submission on.
        fields: The request's field for each subject of a failure; see `to_error`.
        generated: The tokens that the answer has taken from `pending`.
        by_token: Its tokens are read one by one, as they come: each may end it, or many at once
            would take long.
        vector: The embedding, which ends the sequence.
        coalesced: Whether it shares the sequence of an identical request.
        deadline: When it ends with an error, in the event loop's time.
        deaths: Engines that died while they ran it, which may have been because of it.
        losses: Engines that died while they ran it.
        begun_at: When its engine's first tokens of it came, in the event loop's time; None before.
        proved: It had run in the engine that was lost for so long that it is hardly the cause.
        timing: What its engine tells with the first token, and its preemptions with the last.
        gaps: Measures the gaps of a stream; None: they don't matter.
        resumptions: How often another engine took it over from one that died.
        started: Whether its engine may have begun it; False if it certainly waits in the queue.
        ticket: Its entry in the router's account of its engine; None where there is one engine.
        submitted_at: When an engine got it, in `time.monotonic` seconds; 0.0 before. One that goes
            on after tokens that were read keeps this and `queued_s` of its first engine.
        queued_s: How long it waited in the engine's queue; None until the engine has started it,
            and if it joined a sequence that had.
        model_wait_s: How long it waited for its model to be loaded.
    """

    answer: Reader
    index: int
    id: int = 0
    deadline: float = 0.0
    deaths: int = 0
    losses: int = 0
    begun_at: float | None = None
    by_token: bool = False
    proved: bool = False
    resumptions: int = 0
    gaps: StreamGaps | None = None
    started: bool = False
    ticket: Ticket | None = None
    submitted_at: float = 0.0
    queued_s: float | None = None
    model_wait_s: float = 0.0
    message: Generate | Embed = field(init=False)
    fields: Mapping[str, str] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    error: VGateError | None = None
    vector: bytes | None = None
    pending: list[int] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: list[Logprobs | None] | None = None
    cached_tokens: int = 0
    coalesced: bool = False
    timing: Timing | None = None

    @property
    def due(self) -> bool:
        """Whether its new output is to be read although nobody waits for a part of it."""
        return self.finish_reason is not None or (self.by_token and bool(self.pending))

    @property
    def has_output(self) -> bool:
        """Whether its engine has sent anything of it."""
        return bool(self.generated or self.pending or self.coalesced)

    def clear(self) -> None:
        """Drop all output."""
        self.pending, self.generated, self.logprobs = [], [], []
        self.prompt_logprobs = self.timing = None
        self.cached_tokens, self.coalesced = 0, False
        if self.gaps is not None:
            self.gaps = StreamGaps()

    def take(self, delta: Delta) -> None:
        """Add new output, which the answer is to read."""
        self.pending += delta.token_ids
        # A resumed sequence keeps the count of its first engine.
        if delta.cached_tokens and not self.generated:
            self.cached_tokens = delta.cached_tokens
        if delta.coalesced:
            self.coalesced = True
            if self.ticket is not None:
                self.ticket.started()
        if (timing := delta.timing) is not None:
            first = self.timing or timing
            self.timing = Timing(first.prefill_s, timing.preemptions)
            if self.ticket is not None:
                self.ticket.started()
        if delta.logprobs is not None:
            self.logprobs += delta.logprobs
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            if self.ticket is not None:
                self.ticket.finished(len(self.generated) + len(self.pending))

    def take_failure(self, failure: Failure) -> None:
        """End by an error of its engine, after the tokens that came before it."""
        read_first(self.answer)
        self.error = to_error(failure, self.fields)


class BaseAnswer:
    """What an HTTP request waits for: one sequence or, with ``n``, several.

    Attributes:
        done: Completed with the last sequence, or failed.
        ended_at: When its owner heard that it was complete, in `time.monotonic` seconds, where that
            is before it is closed; None before, and if it failed.
        sequences: To be submitted by the owner.
        before_end: Called with a streamed answer that is complete, before its last event is sent.
        touched: As of any `Reader`.
    """

    __slots__ = ("before_end", "done", "ended_at", "sequences", "touched")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.before_end: Callable[[Any], None] = _nothing
        self.touched = False
        self.ended_at: float | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        self.sequences = [Sequence(self, index) for index in range(count)]

    def flush(self) -> None:
        """Read the new output of the sequences: of a batch of messages, or of several."""
        raise NotImplementedError

    def restart(self, sequence: Sequence) -> bool:
        """Reset a sequence so that it can start again; False if some output was already sent."""
        sequence.clear()
        return True

    def set_aside(self, sequence: Sequence, *, aside: bool) -> None:
        """Don't read a sequence that had begun, until it is back where it was."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """End the answer with an error, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)

    def give_up(self) -> None:
        """End the answer because its client is gone."""
        self.fail(ClientDisconnected())

    def close(self) -> None:
        """Break the reference cycles. Call it last, when no engine has one of its sequences.

        Only the garbage collector would free an answer and its sequences, perhaps thousands of
        requests later, and a long prompt with them. The same holds for the coroutine that an
        error's traceback refers to.
        """
        for sequence in self.sequences:
            sequence.answer.touched = False  # nobody wants what waits to be read
            del sequence.answer
        done = self.done
        if done.done() and not done.cancelled() and done.exception() is not None:
            self.done = done.get_loop().create_future()
            self.done.cancel()


def _nothing(_answer: object) -> None:
    """Do nothing."""


def read_first(answer: Reader) -> None:
    """Let an answer read the tokens that came before an error; they may complete a stop string."""
    if answer.touched:
        answer.touched = False
        answer.flush()


def fail(sequences: Iterable[Sequence], error: VGateError) -> None:
    """End sequences that run nowhere with an error, after the tokens that came before it."""
    sequences = list(sequences)
    for sequence in sequences:
        read_first(sequence.answer)
    for sequence in sequences:
        sequence.error = error
    for answer in dict.fromkeys([sequence.answer for sequence in sequences]):
        answer.flush()


def fail_late(
    sequences: Mapping[int, Sequence], now: float, remove: Callable[[list[Sequence]], None]
) -> None:
    """Remove the sequences whose deadline is before `now`, and end them with an error."""
    late = [sequence for sequence in sequences.values() if sequence.deadline <= now]
    if late:
        remove(late)
        message = "the request took longer than timeouts.request_s allows"
        fail(late, DeadlineExceededError(message))


def to_error(failure: Failure, fields: Mapping[str, str]) -> VGateError:
    """Return the error that a client gets for an engine's failure.

    `fields` are the request's for the subjects "prompt" and "constraint".
    """
    subject, message, param = failure.subject, failure.reason, None
    if subject is not None:
        param = fields.get(subject) or _FIELDS.get(subject, subject)
        message = f"`{param}`: {message}"
    return from_code(failure.code, message, failure.retry_after_s, param)
