"""The request fields that OpenAI's text APIs share, with vLLM's additions.

Each field's annotation says whether it is served, see `vgate.frontend.apis.fields`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.fields import ACCEPTED, ignored, refused
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.structured import (
    ResponseFormat,
    StructuredOutputs,
    check_constraints,
)
from vgate.frontend.apis.shared import MAX_STOPS, StopString
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Conversation, Generation, Prompts, Truncation
from vgate.wire.parameters import SamplingParams

# `server.max_choices` is the bound that holds; this one keeps it sane.
MAX_CHOICES = 1024
# vLLM's bound is on token sequences, of which a word has one or two.
MAX_BAD_WORDS = 128

_INT32_MAX = 2**31 - 1
Count = Annotated[int, Meta(ge=0, le=_INT32_MAX)]
# -1 stands for all.
CountOrAll = Annotated[int, Meta(ge=-1, le=_INT32_MAX)]
# What other servers and earlier versions of vLLM call the fields.
RENAMED = {
    **{
        f"guided_{name}": f"structured_outputs.{name}"
        for name in ("json", "regex", "choice", "grammar")
    },
    "enable_thinking": "chat_template_kwargs.enable_thinking",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries in addition to text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class TextRequest(SamplingParams, kw_only=True, frozen=True):
    """The fields of chat completions, completions and responses."""

    model: str | None = None
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

    watermarking: Annotated[Any, ignored(False)] = None
    request_id: Annotated[Any, ignored(instead="send the header `x-request-id`")] = None
    kv_transfer_params: Annotated[Any, ignored({})] = None
    ec_transfer_params: Annotated[Any, ignored({})] = None
    vllm_xargs: Annotated[Any, ignored({})] = None
    mm_processor_kwargs: Annotated[Any, ignored({})] = None
    media_io_kwargs: Annotated[Any, ignored({})] = None
    mm_payload: Annotated[Any, ignored("tensors")] = None
    return_mm_kwargs: Annotated[Any, ignored(True)] = None
    moderation: Annotated[Any, ignored()] = None


class GenerationRequest(TextRequest, kw_only=True, frozen=True):
    """The further fields of chat completions and completions."""

    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    request_id: Annotated[str, Meta(max_length=1024)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    prompt_logprobs: CountOrAll | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=_INT32_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    best_of: Annotated[Any, refused(1, instead="use `n`")] = None
    suffix: Annotated[
        Any, refused("", instead="write the model's own tokens for it into `prompt`")
    ] = None
    use_beam_search: Annotated[Any, refused(False)] = None
    length_penalty: Annotated[
        Any, ignored(1.0, instead="only beam search uses it, which is not offered")
    ] = None
    early_stopping: Annotated[Any, ignored(False, instead="only beam search uses it")] = None
    logits_processors: Annotated[Any, ignored([])] = None
    logprob_token_ids: Annotated[Any, ignored([])] = None
    thinking_token_budget: Annotated[Any, ignored(-1)] = None
    repetition_detection: Annotated[Any, ignored()] = None
    prompt_embeds: Annotated[Any, refused([])] = None
    stream_interval: Annotated[Any, ignored(1)] = None
    return_token_offsets: Annotated[Any, ignored(False)] = None
    return_prompt_text: Annotated[Any, ignored(False)] = None
    routed_experts_prompt_start: Annotated[Any, ignored(0)] = None
    functions: Annotated[Any, refused([], instead="use `tools`")] = None
    function_call: Annotated[Any, refused("none", "auto", instead="use `tool_choice`")] = None
    modalities: Annotated[Any, refused(["text"])] = None
    audio: Annotated[Any, refused()] = None
    prediction: Annotated[Any, ACCEPTED] = None
    verbosity: Annotated[Any, ignored("medium")] = None
    web_search_options: Annotated[Any, ignored()] = None

    @property
    def truncation(self) -> Truncation | None:
        """How to cut a prompt that is too long; None refuses it."""
        if self.truncate_prompt_tokens is None:
            return None
        return Truncation(self.truncate_prompt_tokens, self.truncation_side or "left")


def generation_from(
    request: TextRequest, prompt: Conversation | Prompts, *, max_tokens: int | None
) -> Generation:
    """Return a request's generation, in which each API replaces the fields that only some have.

    `max_tokens` is the most tokens of an answer, None for all that the context has room for.
    """
    stop = request.stop or ()
    return Generation(
        model=request.model or "",
        prompt=prompt,
        sampling=_sampling_of(request, max_tokens),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        include_stop=bool(request.include_stop_str_in_output),
        bad_words=request.bad_words or [],
        skip_special_tokens=request.skip_special_tokens is not False,
        cache_salt=request.cache_salt or "",
        priority=request.priority,
    )


def _sampling_of(request: TextRequest, max_tokens: int | None) -> SamplingParams:
    sampling = request.plain(max_tokens=max_tokens)
    if not sampling.logit_bias:
        return sampling
    # As vLLM does; OpenAI's bounds (API reference, "Create chat completion").
    bias = {token: max(-100.0, min(value, 100.0)) for token, value in sampling.logit_bias.items()}
    return msgspec.structs.replace(sampling, logit_bias=bias)


def without_no_limit(document: dict[str, Any], _ignored: Ignored) -> None:
    """Leave out token limits of -1, which is how several servers write that there is none."""
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if document.get(name) in (-1, "-1"):
            del document[name]


def check_common(request: GenerationRequest, token_limit: int | None, ignored: Ignored) -> None:
    """Check what the types of `GenerationRequest` can't express.

    `token_limit` is the most tokens of an answer, if the request has a limit.
    """
    check_constraints(request.response_format, request.structured_outputs, ignored)
    if not request.stream and request.stream_options not in {None, StreamOptions()}:
        raise invalid("stream_options", "is only allowed with `stream: true`")
    if request.prompt_logprobs is not None and request.stream:
        if request.prompt_logprobs:
            raise invalid("prompt_logprobs", "is not available with `stream: true`")
        ignored.add("prompt_logprobs")
    if request.truncation_side is not None and request.truncate_prompt_tokens is None:
        ignored.add("truncation_side")
    if request.truncate_prompt_tokens == 0:
        raise invalid("truncate_prompt_tokens", "must be -1 or at least 1, got 0")
    if token_limit is not None and (request.min_tokens or 0) > token_limit:
        problem = f"must be at most the token limit {token_limit}, got {request.min_tokens}"
        raise invalid("min_tokens", problem)
