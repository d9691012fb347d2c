"""What the requests of OpenAI's text APIs have in common, with vLLM's additions.

What becomes of a field is in its annotation, see `vgate.frontend.apis.fields`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.fields import ACCEPTED, refused
from vgate.frontend.apis.openai.structured import ResponseFormat, StructuredOutputs
from vgate.frontend.apis.shared import MAX_STOPS, StopString
from vgate.frontend.pipeline.generation import Conversation, Generation, Prompts, Truncation
from vgate.wire.sampling import SamplingParams

MAX_CHOICES = 16
# vLLM's bound on what they are as token sequences, of which a word has one or two.
MAX_BAD_WORDS = 128

_INT32_MAX = 2**31 - 1
Count = Annotated[int, Meta(ge=0, le=_INT32_MAX)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class TextRequest(SamplingParams, kw_only=True, frozen=True):
    """The fields of chat completions, completions and responses."""

    model: Annotated[str, Meta(min_length=1)]
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    bad_words: Annotated[list[StopString], Meta(max_length=MAX_BAD_WORDS)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    # vLLM's rule: cache backends use it in their keys (vllm/entrypoints/generate/base/protocol.py).
    cache_salt: Annotated[str, Meta(max_length=128, pattern=r"^[^@/\\\x00]+$")] | None = None
    priority: Annotated[int, Meta(ge=-_INT32_MAX, le=_INT32_MAX)] | None = None

    user: Annotated[str | None, ACCEPTED] = None
    metadata: Annotated[dict[str, Any] | None, ACCEPTED] = None
    store: Annotated[bool | None, ACCEPTED] = None
    service_tier: Annotated[str | None, ACCEPTED] = None
    safety_identifier: Annotated[str | None, ACCEPTED] = None
    prompt_cache_key: Annotated[str | None, ACCEPTED] = None
    prompt_cache_retention: Annotated[str | None, ACCEPTED] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, ACCEPTED] = None
    session_id: Annotated[str | None, ACCEPTED] = None

    watermarking: Annotated[Any, refused(False)] = None
    request_id: Annotated[Any, refused(instead="send the header `x-request-id`")] = None
    kv_transfer_params: Annotated[Any, refused({})] = None
    ec_transfer_params: Annotated[Any, refused({})] = None
    vllm_xargs: Annotated[Any, refused({})] = None
    mm_processor_kwargs: Annotated[Any, refused({})] = None
    media_io_kwargs: Annotated[Any, refused({})] = None
    mm_payload: Annotated[Any, refused("tensors")] = None
    return_mm_kwargs: Annotated[Any, refused(True)] = None
    moderation: Annotated[Any, refused()] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class GenerationRequest(TextRequest, kw_only=True, frozen=True):
    """The further fields of chat completions and completions."""

    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    prompt_logprobs: Count | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=_INT32_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    best_of: Annotated[Any, refused(1, instead="use `n`")] = None
    suffix: Annotated[Any, refused("")] = None
    use_beam_search: Annotated[Any, refused(False)] = None
    length_penalty: Annotated[
        Any, refused(1.0, instead="only beam search uses it, which is not offered")
    ] = None
    early_stopping: Annotated[Any, refused(False)] = None
    logits_processors: Annotated[Any, refused([])] = None
    logprob_token_ids: Annotated[Any, refused([])] = None
    thinking_token_budget: Annotated[Any, refused(-1)] = None
    repetition_detection: Annotated[Any, refused()] = None
    prompt_embeds: Annotated[Any, refused()] = None
    stream_interval: Annotated[Any, refused(1)] = None
    return_token_offsets: Annotated[Any, refused(False)] = None
    return_prompt_text: Annotated[Any, refused(False)] = None
    routed_experts_prompt_start: Annotated[Any, refused(0)] = None
    functions: Annotated[Any, refused([], instead="use `tools`")] = None
    function_call: Annotated[Any, refused("none", "auto", instead="use `tool_choice`")] = None
    modalities: Annotated[Any, refused(["text"])] = None
    audio: Annotated[Any, refused()] = None
    prediction: Annotated[Any, refused()] = None
    verbosity: Annotated[Any, refused("medium")] = None
    web_search_options: Annotated[Any, refused()] = None

    @property
    def choices(self) -> int:
        """How many answers to a prompt."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer, if it is known."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream has the usage so far."""
        options = self.stream_options
        # As in vLLM, the one is only an extension of the other.
        return self.include_usage and bool(options and options.continuous_usage_stats)

    @property
    def truncation(self) -> Truncation | None:
        """How a prompt that is too long is cut."""
        if self.truncate_prompt_tokens is None:
            return None
        return Truncation(self.truncate_prompt_tokens, self.truncation_side or "left")


def generation_from(
    request: TextRequest,
    prompt: Conversation | Prompts,
    *,
    max_tokens: int | None,
    **more: Any,
) -> Generation:
    """Return the generation that a request asks for, as far as the APIs have the same fields.

    Args:
        request: The request.
        prompt: Its prompt.
        max_tokens: Most tokens of an answer; None for as many as there is room for.
        more: Fields of the generation that only some of the APIs have.
    """
    return Generation(
        model=request.model,
        prompt=prompt,
        sampling=request.plain(max_tokens=max_tokens),
        stops=request.stops,
        include_stop=bool(request.include_stop_str_in_output),
        bad_words=request.bad_words or [],
        skip_special_tokens=request.skip_special_tokens is not False,
        cache_salt=request.cache_salt or "",
        priority=request.priority,
        **more,
    )


def check_common(request: GenerationRequest) -> None:
    """Check what the types can't say of the common fields.

    Raises:
        InvalidRequestError: With the field at fault.
    """
    if request.stream_options is not None and not request.stream:
        message = "`stream_options` is only allowed with `stream: true`"
        raise InvalidValueError(message, param="stream_options")
    if request.prompt_logprobs is not None and request.stream:
        message = "`prompt_logprobs` is not available with `stream: true`"
        raise InvalidValueError(message, param="prompt_logprobs")
    if request.truncation_side is not None and request.truncate_prompt_tokens is None:
        message = "`truncation_side` needs `truncate_prompt_tokens`"
        raise InvalidValueError(message, param="truncation_side")
    if request.truncate_prompt_tokens == 0:
        message = "`truncate_prompt_tokens` must be -1 or at least 1, got 0"
        raise InvalidValueError(message, param="truncate_prompt_tokens")
    limit = request.token_limit
    if limit is not None and (request.min_tokens or 0) > limit:
        message = f"`min_tokens` must be at most the token limit {limit}, got {request.min_tokens}"
        raise InvalidValueError(message, param="min_tokens")
