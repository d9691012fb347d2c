"""One generated sequence as a frontend sees it, and the answer it belongs to."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from vgate.errors import DeadlineExceededError, VGateError
from vgate.wire.messages import Embed, FinishReason, Generate, Logprobs

# How often deadlines are checked.
SWEEP_S = 0.25


class Answer(Protocol):
    """What an HTTP request waits for: one sequence or, with ``n``, several.

    Attributes:
        touched: Set while the answer is on the list of those to flush.
    """

    touched: bool

    def flush(self) -> None:
        """Read the new output of its sequences. Called once for a batch of messages."""

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
        "vector",
    )

    def __init__(self, answer: Answer, index: int) -> None:
        self.answer: Answer = answer
        self.index = index
        self.id = 0
        self.deadline = 0.0
        self.deaths = 0
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


def detach(sequences: Iterable[Sequence], done: asyncio.Future[None]) -> asyncio.Future[None]:
    """Remove the references from sequences to their answer, once all of them have ended.

    An answer and its sequences refer to each other. Only the garbage collector would free them,
    perhaps thousands of requests later, and a long prompt with them. The same holds for the
    coroutine that an error's traceback refers to.

    Returns:
        The future that the answer keeps in place of `done`: the same one, or a cancelled one if
        `done` holds an error.
    """
    for sequence in sequences:
        del sequence.answer
    if not done.done() or done.cancelled() or done.exception() is None:
        return done
    done = done.get_loop().create_future()
    done.cancel()
    return done


def fail(sequences: Iterable[Sequence], error: VGateError) -> None:
    """End sequences that run nowhere with an error; each answer is flushed once."""
    answers: dict[int, Answer] = {}
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
