"""What the two text APIs' requests, chat completions and completions, have in common.

Every field is one of three kinds, a base class each: sampling parameters and other fields that are
served, fields that are taken without effect, and fields that are refused by name.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.openai.structured import ResponseFormat, StructuredOutputs
from vgate.wire.sampling import FIELDS as SAMPLING_FIELDS
from vgate.wire.sampling import SamplingParams

_Request = TypeVar("_Request", bound="GenerationRequest")

MAX_CHOICES = 16
MAX_STOPS = 16
# vLLM's bound on what they are as token sequences, of which a word has one or two.
MAX_BAD_WORDS = 128

StopString = Annotated[str, Meta(min_length=1, max_length=1024)]
_INT32_MAX = 2**31 - 1
Count = Annotated[int, Meta(ge=0, le=_INT32_MAX)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class Accepted(SamplingParams, kw_only=True, frozen=True):
    """Fields that concern the platform and not the answer: taken, without effect."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    session_id: str | None = None


class Refused(Accepted, kw_only=True, frozen=True):
    """Fields that would change the answer and aren't served; only their neutral values pass."""

    best_of: Any = None
    suffix: Any = None
    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    logits_processors: Any = None
    logprob_token_ids: Any = None
    thinking_token_budget: Any = None
    repetition_detection: Any = None
    watermarking: Any = None
    prompt_embeds: Any = None
    request_id: Any = None
    stream_interval: Any = None
    return_token_offsets: Any = None
    return_prompt_text: Any = None
    routed_experts_prompt_start: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None
    mm_processor_kwargs: Any = None
    media_io_kwargs: Any = None
    mm_payload: Any = None
    return_mm_kwargs: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None


ACCEPTED = Accepted.__struct_fields__[len(SAMPLING_FIELDS) :]
REFUSED = Refused.__struct_fields__[len(Accepted.__struct_fields__) :]
_refused_values = attrgetter(*REFUSED)
_NONE_REFUSED = (None,) * len(REFUSED)

# Values with which a refused field changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "thinking_token_budget": (-1,),
    "watermarking": (False,),
    "stream_interval": (1,),
    "return_token_offsets": (False,),
    "return_prompt_text": (False,),
    "routed_experts_prompt_start": (0,),
    "kv_transfer_params": ({},),
    "ec_transfer_params": ({},),
    "vllm_xargs": ({},),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "mm_payload": ("tensors",),
    "return_mm_kwargs": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
_INSTEAD = {
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "length_penalty": "only beam search uses it, which is not offered",
    "best_of": "use `n`",
    "request_id": "send the header `x-request-id`",
}


class GenerationRequest(Refused, kw_only=True, frozen=True):
    """The fields that both APIs serve. See the sampling parameters for the rest."""

    model: Annotated[str, Meta(min_length=1)]
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    bad_words: Annotated[list[StopString], Meta(max_length=MAX_BAD_WORDS)] | None = None
    prompt_logprobs: Count | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=_INT32_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    # vLLM's rule: cache backends use it in their keys (vllm/entrypoints/generate/base/protocol.py).
    cache_salt: Annotated[str, Meta(max_length=128, pattern=r"^[^@/\\\x00]+\Z")] | None = None
    priority: Annotated[int, Meta(ge=-_INT32_MAX, le=_INT32_MAX)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

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


# How an answer is delivered or when it starts, and what is taken without effect. `model` may be an
# alias.
_NOT_SHAPING: dict[str, Any] = dict.fromkeys(
    ("stream", "stream_options", "priority", *ACCEPTED)
) | {"model": ""}


def shaping_fields(request: _Request) -> _Request:
    """Return the request without what does not shape the answer.

    Two requests for which this is equal (as are their prompts, complete parameters and model) get
    the same answer. A new field shapes the answer until it is named here.
    """
    return msgspec.structs.replace(request, **_NOT_SHAPING)


def check_common(request: GenerationRequest) -> None:
    """Check what the types can't say of the common fields.

    Raises:
        InvalidRequestError: With the field at fault.
    """
    values = _refused_values(request)
    if values != _NONE_REFUSED:
        _check_refused(values)
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


def _check_refused(values: tuple[Any, ...]) -> None:
    for name, value in zip(REFUSED, values, strict=True):
        if value is None or any(_same(value, neutral) for neutral in _NEUTRAL.get(name, ())):
            continue
        instead = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
        message = f"`{name}` is not supported by this server{instead}"
        raise UnsupportedParameterError(message, param=name)


def _same(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
