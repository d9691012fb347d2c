"""From vLLM's outputs to ours."""

from typing import Any, NamedTuple

from vgate.engine.backends.base import Facts, Output
from vgate.engine.request import Request, RequestError
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import FinishReason

# vllm.v1.engine.FinishReason; all others are errors.
_FINISH: dict[int | None, FinishReason | None] = {None: None, 0: "stop", 1: "length"}


class Running(NamedTuple):
    """A sequence in vLLM's scheduler: our request, and vLLM's, which counts its preemptions."""

    request: Request
    counted: Any


def to_output(output: Any, running: Running | None, facts: Facts | None) -> Output:
    """Translate vLLM's EngineCoreOutput of a sequence; None if that is unknown."""
    key, reason = output.request_id, output.finish_reason
    if output.pooling_output is not None:
        vector = output.pooling_output.float().cpu().numpy().astype("<f4").tobytes()
        return Output(key, [], None, facts, vector)
    if reason not in _FINISH:
        return Output(key, [], None, facts, error=_given_up(reason, running))
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None
    if running is not None:
        options = running.request.options
        if (arrays := output.new_logprobs) is not None:
            logprobs = _logprobs(arrays, options.logprobs or 0)
        if (tensors := output.new_prompt_logprobs_tensors) is not None:
            # vLLM's begin with the second token.
            prompt_logprobs = [None, *_logprobs(tensors, options.prompt_logprobs or 0)]
    token_ids, finish_reason = output.new_token_ids, _FINISH[reason]
    return Output(key, token_ids, finish_reason, facts, None, None, logprobs, prompt_logprobs)


def _given_up(finish_reason: Any, running: Running | None) -> RequestError:
    """Return why vLLM ended one request before it was complete; the others continue."""
    if running is not None and running.request.options.structured is not None:
        # Its grammar can't be compiled, or the other parameters allow no token that fits it.
        reason = "no output can satisfy it together with the other parameters"
        return RequestError("invalid_value", reason, "constraint")
    reason = f"vLLM ended the request before it was complete ({finish_reason})"
    return RequestError("engine_unavailable", reason, retry_after_s=1.0)


def too_slow(running: Running) -> Output:
    """Return the failure of a sequence whose grammar takes too long."""
    reason = "takes too long to follow, because it is too ambiguous"
    error = RequestError("invalid_value", reason, "constraint")
    return Output(running.request.key, [], None, None, error=error)


def _logprobs(arrays: Any, count: int) -> list[Logprobs]:
    """Return one `Logprobs` for each row of vLLM's LogprobsLists or LogprobsTensors.

    A row has the sampled token and then the most likely ones, as many as any request in the batch
    asked for; this one asked for `count`.
    """
    ids, logprobs, ranks, *_ = arrays
    width = count + 1
    rows = _rows(ids[:, :width], "<u4"), _rows(logprobs[:, :width], "<f4"), ranks.tolist()
    return [Logprobs(*row) for row in zip(*rows, strict=True)]


def _rows(array: Any, kind: str) -> list[bytes]:
    """Return the rows of a tensor, or of an array, as numbers of a kind."""
    if hasattr(array, "numpy"):
        array = array.numpy()
    return [row.tobytes() for row in array.astype(kind)]
