"""From a request's fields to the parameters of a generation, with the model at hand."""

from __future__ import annotations

import msgspec

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.http import HttpRequest
from vgate.frontend.openai.generation_request import GenerationRequest
from vgate.frontend.served_model import ServedModel
from vgate.frontend.text_model import TextModel
from vgate.wire.messages import GenerateOptions, StructuredOutput, Task
from vgate.wire.sampling import SamplingParams

_ENDPOINTS: dict[Task, str] = {"generate": "/v1/chat/completions", "embed": "/v1/embeddings"}


def check_task(model: ServedModel, name: str, task: Task) -> None:
    """Check that a model is for what is asked of it.

    Raises:
        InvalidValueError: It is for something else.
    """
    if model.config.task != task:
        what = "generate text" if task == "generate" else "embed text"
        message = f"the model `{name}` does not {what}; use {_ENDPOINTS[model.config.task]}"
        raise InvalidValueError(message, param="model")


def truncated(prompt: list[int], request: GenerationRequest, text: TextModel) -> list[int]:
    """Return the prompt, cut as the request wants it: -1 is to what the model takes."""
    keep = request.truncate_prompt_tokens
    if keep is None:
        return prompt
    if keep < 0:
        keep = text.info.max_model_len - max(1, request.token_limit or 1)
    if len(prompt) <= keep:
        return prompt
    if request.truncation_side == "right":
        return prompt[:keep]
    return prompt[len(prompt) - keep :]


def sampling_of(
    request: GenerationRequest, text: TextModel, prompts: list[list[int]], param: str
) -> SamplingParams:
    """Return the complete sampling parameters.

    Args:
        request: What is asked.
        text: The model.
        prompts: Token ids of the prompts; each must fit with its answer.
        param: The request's field that the prompts are from.

    Raises:
        ContextLengthExceededError: Prompt and requested tokens do not fit.
        InvalidValueError: `min_tokens` alone does not fit, or a prompt is empty.
    """
    limit = text.info.max_model_len
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    room = limit - longest
    wanted = request.token_limit
    if room < 1 or (wanted or 1) > room:
        asked = f" and {wanted} were requested for the answer" if wanted else ""
        message = (
            f"the model's context is {limit} tokens, but the {param} have {longest} "
            f"tokens{asked}; shorten the {param} or lower `max_tokens`"
            if param == "messages"
            else f"the model's context is {limit} tokens, but the prompt has {longest} "
            f"tokens{asked}; shorten the prompt or lower `max_tokens`"
        )
        raise ContextLengthExceededError(message, param=param)
    if not shortest:
        message = f"`{param}` must have at least one token"
        raise InvalidValueError(message, param=param)
    if (request.min_tokens or 0) > room:
        message = f"`min_tokens` must be at most the {room} tokens left in the model's context"
        raise InvalidValueError(message, param="min_tokens")
    sampling = request.over(text.defaults)
    return msgspec.structs.replace(sampling, max_tokens=wanted or room)


def options_of(
    request: GenerationRequest,
    text: TextModel,
    *,
    adapter: str,
    logprobs: int | None,
    prompt_logprobs: int | None,
    structured: StructuredOutput | None,
) -> GenerateOptions:
    """Return what shapes an answer beside the sampling parameters.

    Raises:
        InvalidValueError: A bad word is no token.
    """
    return GenerateOptions(
        logprobs,
        prompt_logprobs,
        _bad_words(request.bad_words or [], text),
        structured,
        adapter,
        request.cache_salt or "",
    )


def priority_of(http: HttpRequest, priority: int | None) -> int:
    """Return a request's priority.

    Raises:
        InvalidValueError: It is more urgent than the API key allows.
    """
    least = http.admission.key.min_priority if http.admission else 0
    if priority is None:
        return max(0, least)
    if priority < least:
        message = (
            f"`priority` must be at least {least} for this API key, got {priority}; "
            "lower starts sooner"
        )
        raise InvalidValueError(message, param="priority")
    return priority


def _bad_words(words: list[str], text: TextModel) -> list[list[int]]:
    """Return the token sequences of some words, at the beginning of a text and inside of it.

    As vLLM does it (vllm/sampling_params.py, update_from_tokenizer).
    """
    found: list[list[int]] = []
    for place, word in enumerate(words):
        plain, spaced = text.encode(word.lstrip()), text.encode(" " + word.lstrip())
        if not plain:
            message = f"`bad_words[{place}]` must have at least one token"
            raise InvalidValueError(message, param=f"bad_words[{place}]")
        found.append(plain)
        if spaced and spaced[0] != plain[0] and len(spaced) == len(plain):
            found.append(spaced)
    return found
