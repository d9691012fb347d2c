"""One generated sequence as a frontend sees it, and the answer that it belongs to."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from vgate.errors import DeadlineExceededError, VGateError
from vgate.frontend.http.waits import ClientDisconnected
from vgate.wire.messages import Embed, FinishReason, Generate, Logprobs

# How often deadlines are checked.
SWEEP_S = 0.25


class Reader(Protocol):
    """What reads a sequence's output: its answer, or what stands before it for a while.

    Attributes:
        touched: Set while it is on the list of those to flush.
    """

    touched: bool

    def flush(self) -> None:
        """Read the new output of the sequences. Called once for a batch of messages."""

    def restart(self, sequence: "Sequence") -> bool:
        """Reset a sequence so that it can start again; False if some output was already sent."""


class Sequence:
    """A sequence that runs in an engine.

    The engine's handle fills `pending`, `finish_reason`, `cached_tokens`, `coalesced`, `error` and,
    if they were asked for, `logprobs` (one for each pending token) and `prompt_logprobs`; the
    answer empties them in `flush`. Prompt and tokens so far stay with the frontend, so that a
    sequence can be resumed on another engine.

    Attributes:
        message: The request to the engine.
        fields: The request's field for each subject of a failure; see `client.to_error`.
        generated: The tokens that the answer has taken from `pending`.
        vector: The embedding, which ends the sequence.
        coalesced: Whether it shares the sequence of an identical request.
        deadline: When it ends with an error, in the event loop's time.
        deaths: Engines that died while they ran it.
        started: Whether its engine may have begun it; False if it certainly waits in the queue.
    """

    __slots__ = (
        "answer",
        "cached_tokens",
        "coalesced",
        "deadline",
        "deaths",
        "error",
        "fields",
        "finish_reason",
        "generated",
        "id",
        "index",
        "logprobs",
        "message",
        "pending",
        "prompt_logprobs",
        "started",
        "vector",
    )

    def __init__(self, answer: Reader, index: int) -> None:
        self.answer = answer
        self.index = index
        self.id = 0
        self.deadline = 0.0
        self.deaths = 0
        self.started = False
        self.message: Generate | Embed | None = None
        self.fields: Mapping[str, str] = {}
        self.finish_reason: FinishReason | None = None
        self.error: VGateError | None = None
        self.vector: bytes | None = None
        self.clear()

    def clear(self) -> None:
        """Drop all output."""
        self.pending: list[int] = []
        self.generated: list[int] = []
        self.logprobs: list[Logprobs] = []
        self.prompt_logprobs: list[Logprobs | None] | None = None
        self.cached_tokens = 0
        self.coalesced = False


class BaseAnswer:
    """What an HTTP request waits for: one sequence or, with ``n``, several.

    Attributes:
        done: Completed with the last sequence, or failed.
        sequences: To be submitted by the owner.
        touched: Set while the answer is on the list of those to flush.
    """

    __slots__ = ("done", "sequences", "touched")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.touched = False
        self.done: asyncio.Future[None] = loop.create_future()
        self.sequences = [Sequence(self, index) for index in range(count)]

    def flush(self) -> None:
        """Read the new output of the sequences. Called once for a batch of messages."""
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
            del sequence.answer
        done = self.done
        if done.done() and not done.cancelled() and done.exception() is not None:
            self.done = done.get_loop().create_future()
            self.done.cancel()


def fail(sequences: Iterable[Sequence], error: VGateError) -> None:
    """End sequences that run nowhere with an error; each answer is flushed once."""
    answers: dict[int, Reader] = {}
    for sequence in sequences:
        sequence.error = error
        answers[id(sequence.answer)] = sequence.answer
    for answer in answers.values():
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
