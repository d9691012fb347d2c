"""The interface between the engine's loop and the backend that runs the model."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.request import Request, RequestError
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import FinishReason, ModelInfo
from vgate.wire.model_files import ModelFiles
from vgate.wire.stats import Gpu


class ReportPhase(Protocol):
    """Reports that a phase of the start begins, or how much of its download is there."""

    def __call__(self, phase: str, done_bytes: int = 0, total_bytes: int = 0, /) -> None:
        """Report it."""


class Allowance(NamedTuple):
    """What a start may take at most, where the backend chooses (`auto`).

    Attributes:
        share: Of what it would usually take of its device; others may need the rest.
        halvings: How often the batch is halved, because more of it ran out of memory.
    """

    share: float = 1.0
    halvings: int = 0


ALL = Allowance()
# What a start had too little of. memory: an allocation failed. room: the KV cache had none left.
Lack = Literal["", "memory", "room"]


class BackendError(Exception):
    """The backend can't start: why, and what the operator can do."""

    def __init__(self, message: str, *, permanent: bool = True, lacks: Lack = "") -> None:
        """`permanent`: a restart would fail in the same way, `lacks`: unless it takes less."""
        super().__init__(message)
        self.permanent = permanent
        self.lacks = lacks


class WorkerDiedError(Exception):
    """A process of the backend died, and with it the engine."""


class Facts(NamedTuple):
    """What a backend tells of a sequence with its first tokens and, brought up to date, at its end.

    Attributes:
        cached_tokens: Prompt tokens found in the prefix cache; only with the first tokens.
        preemptions: How often it lost its KV cache.
    """

    cached_tokens: int = 0
    preemptions: int = 0


class Output(NamedTuple):
    """One step's output for one request: most fields are those of the wire's `Delta`.

    Attributes:
        key: The request's key.
        facts: With the first tokens and with the finish reason; otherwise None.
        vector: The embedding, or a number for each class (float32, little-endian). It ends the
            request.
        error: Ends the request instead of a finish reason. The other requests are not affected.
    """

    key: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    facts: Facts | None
    vector: bytes | None = None
    error: RequestError | None = None
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None


class Outputs(Iterable[Output]):
    """A step's outputs, of which the plain ones (one token and nothing else) are in two columns.

    Most outputs are plain, and to make an object of each would be the largest part of the work.
    Iterating makes an `Output` of each.

    Attributes:
        keys: The requests with a plain output. They have no other.
        tokens: The token of each of them.
        others: All other outputs.
    """

    __slots__ = ("keys", "others", "tokens")

    def __init__(self, keys: list[str], tokens: list[int], others: list[Output]) -> None:
        self.keys = keys
        self.tokens = tokens
        self.others = others

    def __iter__(self) -> Iterator[Output]:
        """Yield an output for every request that got one."""
        for key, token in zip(self.keys, self.tokens, strict=True):
            yield Output(key, [token], None, None)
        yield from self.others


class BackendCounts(NamedTuple):
    """A backend's counts since its start, as the wire's `EngineStats` has them."""

    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


class Backend(Protocol):
    """Runs sequences in continuous batching. Used from one thread.

    An exception from `step` ends the process, because the model's state is unknown after it.
    `files` are those that `model.files` describes. `chosen`: what stands for `auto` and what was
    lowered, and why, for people; "" if nothing.
    """

    model: ModelInfo
    files: ModelFiles
    chosen: str

    def add(self, request: Request) -> None:
        """Start a sequence, after its `continued` tokens, which are not output again.

        A check that takes long (a grammar) may fail later, with an error in an output.

        Raises:
            RequestError: The request can't run. The backend keeps nothing of it.
        """

    def abort(self, keys: list[str]) -> None:
        """Stop sequences, without any further output. Unknown keys are ignored."""

    def has_work(self) -> bool:
        """Whether `step` has something to do."""

    def step(self) -> Iterable[Output] | None:
        """Run the model once over the batch; None if it could not run yet (try again soon)."""

    def kv_cache_usage(self) -> float:
        """Return the fraction of the KV cache in use, 0 to 1."""

    def counts(self) -> BackendCounts:
        """Return the counts since the start."""

    def forget(self) -> None:
        """Forget what ran before: the prefix cache and the counts. Called while nothing runs."""

    def follow_blocks(self) -> CachedBlocks | None:
        """Return the blocks of the prefix cache, kept up to date by `step` from now on.

        None if nothing is cached, or it isn't known what. The same ones at each call.
        """

    def prefill_tokens_per_s(self) -> float:
        """Return how fast prompts are computed, as measured so far; 0 if that isn't known."""

    def gpus(self) -> list[Gpu]:
        """Return the memory of the GPUs; empty if there are none or it isn't known."""

    def sleep(self) -> bool:
        """Free the memory of the device until `wake`, if that can be. Only when nothing runs.

        Nothing but `wake` and `shutdown` may be called then. What was cached is forgotten.
        """

    def wake(self) -> None:
        """Take the memory again, so that it serves as before."""

    def shutdown(self) -> None:
        """Free all resources."""
