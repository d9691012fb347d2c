"""From a request's fields to the parameters of a generation, with the model at hand."""

from __future__ import annotations

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.apis.openai.generation_request import GenerationRequest
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.request import HttpRequest
from vgate.frontend.text.model import TextModel
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
    longest = max(map(len, prompts))
    room = limit - longest
    wanted = request.token_limit
    if room < 1 or (wanted or 1) > room:
        asked = f" and {wanted} were requested for the answer" if wanted else ""
        has = "the messages have" if param == "messages" else "the prompt has"
        message = (
            f"the model's context is {limit} tokens, but {has} {longest} tokens{asked}; "
            f"shorten the {param} or lower `max_tokens`"
        )
        raise ContextLengthExceededError(message, param=param)
    if not all(prompts):
        message = f"`{param}` must have at least one token"
        raise InvalidValueError(message, param=param)
    if (request.min_tokens or 0) > room:
        message = f"`min_tokens` must be at most the {room} tokens left in the model's context"
        raise InvalidValueError(message, param="min_tokens")
    return request.over(text.defaults, max_tokens=wanted or room)


def reported_stop_ids(request: GenerationRequest, text: TextModel) -> frozenset[int]:
    """Return the tokens that a client is told when one of them has ended an answer.

    As vLLM has it: all that can but the tokenizer's own, which is the usual end.
    """
    asked = frozenset(request.stop_token_ids or ())
    if request.ignore_eos:
        return asked
    return (asked | text.other_ends) - {text.end}


def options_of(
    request: ChatRequest | CompletionRequest,
    text: TextModel,
    adapter: str,
    structured: StructuredOutput | None,
) -> GenerateOptions:
    """Return what shapes an answer beside the sampling parameters."""
    return GenerateOptions(
        request.wanted_logprobs,
        request.wanted_prompt_logprobs,
        text.encode_bad_words(request.bad_words or []),
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
