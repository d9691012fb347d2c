"""From what a step of vLLM's brought for one request to ours."""

from __future__ import annotations

from typing import Any

from vgate.engine.backends.base import Output
from vgate.errors import EngineUnavailableError, InvalidValueError, VGateError
from vgate.wire.messages import FinishReason, Logprobs

# vllm.v1.engine.FinishReason; what is not here is an error.
_FINISH: dict[int | None, FinishReason | None] = {None: None, 0: "stop", 1: "length"}


def translated(output: Any, request: Any, cached_tokens: int) -> Output:
    """Translate an output.

    Args:
        output: vLLM's EngineCoreOutput.
        request: vLLM's own object of the request; None if it is unknown.
        cached_tokens: Prompt tokens found in the prefix cache.
    """
    key, reason = output.request_id, output.finish_reason
    if output.pooling_output is not None:
        vector = output.pooling_output.float().cpu().numpy().astype("<f4").tobytes()
        return Output(key, [], None, cached_tokens, vector)
    if reason not in _FINISH:
        return Output(key, [], None, cached_tokens, error=_given_up(reason, request))
    logprobs = prompt_logprobs = None
    if request is not None and (arrays := output.new_logprobs) is not None:
        logprobs = _of_tokens(arrays, request.sampling_params.logprobs)
    if request is not None and (tensors := output.new_prompt_logprobs_tensors) is not None:
        prompt_logprobs = _of_prompt(tensors, request.sampling_params.prompt_logprobs)
    token_ids, finish_reason = output.new_token_ids, _FINISH[reason]
    return Output(
        key, token_ids, finish_reason, cached_tokens, None, None, logprobs, prompt_logprobs
    )


def _given_up(reason: Any, request: Any) -> VGateError:
    """Say why vLLM ended one request before it was complete; the others go on."""
    if request is not None and request.use_structured_output:
        # Its grammar can't be compiled, or the other parameters allow no token that fits it.
        message = "the form that is asked for can't be followed together with the other parameters"
        return InvalidValueError(message, param="response_format")
    message = f"vLLM ended the request before it was complete ({reason})"
    return EngineUnavailableError(message, retry_after_s=1.0)


def _of_tokens(arrays: Any, count: int) -> list[Logprobs]:
    """Return one `Logprobs` for each new token.

    Args:
        arrays: vLLM's LogprobsLists. A row has the token that was taken and then the most likely
            ones, as many as anybody in the batch asked for.
        count: Most likely ones that this request asked for.
    """
    width = count + 1
    return [
        Logprobs(*row)
        for row in zip(
            arrays.logprob_token_ids[:, :width].tolist(),
            arrays.logprobs[:, :width].tolist(),
            arrays.sampled_token_ranks.tolist(),
            strict=True,
        )
    ]


def _of_prompt(tensors: Any, count: int) -> list[Logprobs | None]:
    """Return one `Logprobs` for each token of a prompt but the first, which has None.

    Args:
        tensors: vLLM's LogprobsTensors, from the second token on.
        count: As in `_of_tokens`.
    """
    width = count + 1
    return [
        None,
        *(
            Logprobs(*row)
            for row in zip(
                tensors.logprob_token_ids[:, :width].tolist(),
                tensors.logprobs[:, :width].tolist(),
                tensors.selected_token_ranks.tolist(),
                strict=True,
            )
        ),
    ]
