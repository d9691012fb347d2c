"""The interface between the engine's loop and the backend that runs the model."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from vgate.engine.request import Request, RequestError
from vgate.wire.messages import FinishReason, Logprobs, ModelInfo
from vgate.wire.model_files import ModelFiles

ReportPhase = Callable[[str], None]


class BackendError(Exception):
    """The backend can't start: why, and what the operator can do."""

    def __init__(self, message: str, *, permanent: bool = True) -> None:
        """`permanent`: a restart would fail in the same way."""
        super().__init__(message)
        self.permanent = permanent


class Output(NamedTuple):
    """One step's output for one request: most fields are those of the wire's `Delta`.

    Attributes:
        key: The request's key.
        vector: The embedding (float32, little-endian), which ends the request.
        error: Ends the request instead of a finish reason. The other requests are not affected.
    """

    key: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    cached_tokens: int
    vector: bytes | None = None
    error: RequestError | None = None
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None


class BackendCounts(NamedTuple):
    """A backend's counts since its start: the last fields of the wire's `EngineStats`."""

    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0


class Backend(Protocol):
    """Runs sequences in continuous batching. Used from one thread.

    An exception from `step` ends the process, because the model's state is unknown after it.
    `files` are those that `model.files` describes.
    """

    model: ModelInfo
    files: ModelFiles

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

    def shutdown(self) -> None:
        """Free all resources."""
