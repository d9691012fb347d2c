"""The checks of a request that need to know the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vgate.errors import InvalidValueError
from vgate.wire.messages import ModelInfo

if TYPE_CHECKING:
    from vgate.frontend.apis.openai.chat.request import ChatRequest
    from vgate.frontend.apis.openai.completions.request import CompletionRequest
    from vgate.frontend.apis.openai.generation_request import GenerationRequest


def check_against_model(request: ChatRequest | CompletionRequest, info: ModelInfo) -> None:
    """Check a request against what the model has and allows.

    Raises:
        InvalidValueError: A token that is not in the vocabulary, or more than the model allows.
    """
    _check_logprobs(request, info.max_logprobs)
    length = request.truncate_prompt_tokens
    if length is not None and length > info.max_model_len:
        message = (
            f"`truncate_prompt_tokens` must be at most the model's {info.max_model_len} tokens, "
            f"got {length}"
        )
        raise InvalidValueError(message, param="truncate_prompt_tokens")
    if info.vocab_size:
        _check_tokens(request, info.vocab_size)


def truncated(request: GenerationRequest, tokens: list[int], max_model_len: int) -> list[int]:
    """Cut a prompt as `truncate_prompt_tokens` asks, as vLLM does.

    Of a prompt that is too long its end is kept, or its beginning with `truncation_side: right`.
    -1 stands for the model's context without one token for the answer.
    """
    length = request.truncate_prompt_tokens
    if length is None:
        return tokens
    if length < 0:
        length = max(1, max_model_len - 1)
    if len(tokens) <= length:
        return tokens
    return tokens[:length] if request.truncation_side == "right" else tokens[len(tokens) - length :]


def _check_logprobs(request: ChatRequest | CompletionRequest, most: int) -> None:
    for name in ("top_logprobs", "logprobs", "prompt_logprobs"):
        value = getattr(request, name, None)
        if value is not None and value is not True and value > most:
            message = f"`{name}` must be at most {most} for this model, got {value}"
            raise InvalidValueError(message, param=name)


def _check_tokens(request: ChatRequest | CompletionRequest, vocab_size: int) -> None:
    for name in ("logit_bias", "allowed_token_ids", "stop_token_ids"):
        _check_ids(getattr(request, name) or (), vocab_size, name)
    for index, prompt in enumerate(getattr(request, "prompts", ())):
        if not isinstance(prompt, str):
            _check_ids(prompt, vocab_size, f"prompt[{index}]")


def _check_ids(ids: Iterable[int], vocab_size: int, where: str) -> None:
    highest = max(ids, default=0)
    if highest >= vocab_size:
        message = f"`{where}` has the token id {highest}, but the model's are below {vocab_size}"
        raise InvalidValueError(message, param=where)
