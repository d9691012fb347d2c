"""The protocol between the loop and what runs the model. It knows neither ZeroMQ nor vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from vgate.engine.request import Request
from vgate.errors import VGateError
from vgate.wire.messages import FinishReason, Logprobs, ModelInfo
from vgate.wire.model_files import ModelFiles

ReportPhase = Callable[[str], None]


class BackendError(Exception):
    """The backend can't start; the message says why and what to do.

    Args:
        message: For the operator.
        permanent: Starting again would fail in the same way.
    """

    def __init__(self, message: str, *, permanent: bool = True) -> None:
        super().__init__(message)
        self.permanent = permanent


class Output(NamedTuple):
    """What one step brought for one request.

    Attributes:
        key: The request's key.
        token_ids: New tokens; with a stop token among them where one ended it.
        finish_reason: Set once, in the last output of a request.
        cached_tokens: Prompt tokens found in the prefix cache, in the first output.
        vector: The embedding (float32, little-endian), which ends the request.
        error: Set instead of finish_reason where the backend gave up this request alone.
        logprobs: One for each of `token_ids`, if the request asked for them.
        prompt_logprobs: One for each token of the prompt but None for the first, if the request
            asked for them; in the first output with tokens.
    """

    key: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    cached_tokens: int
    vector: bytes | None = None
    error: VGateError | None = None
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None


class BackendCounts(NamedTuple):
    """What a backend counts since its start.

    Attributes:
        preemptions: Sequences that lost their KV cache and were computed again.
        prefix_cache_queries, prefix_cache_hits: Prompt tokens looked up and found.
    """

    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0


class Backend(Protocol):
    """Runs sequences in continuous batching. Used from one thread.

    Any exception out of `step` is fatal: the state of the model is unknown and the process ends.

    Attributes:
        files: The files that `model.files` describes.
    """

    files: ModelFiles

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""

    def add(self, request: Request) -> None:
        """Start a sequence, after its `continued` tokens if it has some: these are not told again.

        What takes long to check (a grammar) may be refused later, by an output with an error.

        Raises:
            VGateError: The request can't be run; nothing of it stays behind.
        """

    def abort(self, keys: list[str]) -> None:
        """Stop sequences; no output follows for them. Unknown keys are ignored."""

    def has_work(self) -> bool:
        """Say whether `step` has something to do."""

    def step(self) -> Iterable[Output] | None:
        """Run the model once over the batch; None if it could not run now (try again soon)."""

    def kv_cache_usage(self) -> float:
        """Return the share of the KV cache in use, 0 to 1."""

    def counts(self) -> BackendCounts:
        """Return what the backend has counted since its start."""

    def shutdown(self) -> None:
        """Free what the backend holds."""
