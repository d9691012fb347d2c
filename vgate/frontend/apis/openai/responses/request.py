"""Requests of the Responses API, decoded and checked.

What a chat completion request has too is only carried here; it is checked as one (see
`vgate.frontend.apis.openai.responses.translate`).
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import decode_request
from vgate.wire.sampling import FIELDS as SAMPLING_FIELDS
from vgate.wire.sampling import SamplingParams

OUTPUT_LOGPROBS = "message.output_text.logprobs"

# All but one are about tools that aren't served, or say where reasoning is put, so there is nothing
# that they could add: reasoning is in the answer as plain text, and can be sent back as that.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]

# OpenAI's bounds (API reference, "Create a model response").
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to think. Reasoning is shown in full, so it is never summarised."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class PlainFormat(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Any text."""


class ObjectFormat(msgspec.Struct, frozen=True, tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    """JSON by a schema."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the text."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries; padding against an eavesdropper is never added."""

    include_obfuscation: bool | None = None


class Accepted(SamplingParams, kw_only=True, frozen=True):
    """Fields that concern the platform and not the answer: taken, without effect."""

    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    session_id: str | None = None
    max_tool_calls: int | None = None


class AsInChat(Accepted, kw_only=True, frozen=True):
    """Fields that chat completions have under the same name; their types are checked there.

    The later ones are vLLM's additions, of which the last few are refused there.
    """

    parallel_tool_calls: Any = None
    stop: Any = None
    bad_words: Any = None
    include_reasoning: Any = None
    include_stop_str_in_output: Any = None
    skip_special_tokens: Any = None
    spaces_between_special_tokens: Any = None
    structured_outputs: Any = None
    chat_template_kwargs: Any = None
    cache_salt: Any = None
    priority: Any = None
    watermarking: Any = None
    vllm_xargs: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    mm_processor_kwargs: Any = None
    media_io_kwargs: Any = None
    mm_payload: Any = None
    return_mm_kwargs: Any = None
    request_id: Any = None
    moderation: Any = None


# With the sampling parameters; not with `max_tokens`, which has another name here.
AS_IN_CHAT = (
    "model",
    "stream",
    *(name for name in SAMPLING_FIELDS if name != "max_tokens"),
    *AsInChat.__struct_fields__[len(Accepted.__struct_fields__) :],
)


class Refused(AsInChat, kw_only=True, frozen=True):
    """Fields that would change the answer and aren't served; only their neutral values pass."""

    background: Any = None
    background_options: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    access_programs: Any = None
    image: Any = None
    enable_response_messages: Any = None
    previous_input_messages: Any = None
    messages: Any = None
    max_completion_tokens: Any = None
    response_format: Any = None
    reasoning_effort: Any = None
    logprobs: Any = None
    n: Any = None


_REFUSED = ("max_tokens", *Refused.__struct_fields__[len(AsInChat.__struct_fields__) :])
_refused_values = attrgetter(*_REFUSED)
_NONE_REFUSED = (None,) * len(_REFUSED)
_FALSE_IS_NEUTRAL = ("background", "enable_response_messages")
_NOTHING_KEPT = "nothing is stored; send the whole conversation in `input`"
_INSTEAD = {
    "background": "send the request without it, and `stream: true` to see it progress",
    "previous_response_id": _NOTHING_KEPT,
    "conversation": _NOTHING_KEPT,
    "prompt": "send its text in `instructions` and `input`",
    "previous_input_messages": "use `input`",
    "messages": "use `input`",
    "max_tokens": "use `max_output_tokens`",
    "max_completion_tokens": "use `max_output_tokens`",
    "response_format": "use `text.format`",
    "reasoning_effort": "use `reasoning.effort`",
    "logprobs": f"use `include` with {OUTPUT_LOGPROBS!r}",
    "n": "there is one answer",
}


class ResponsesRequest(Refused, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/responses``. See the sampling parameters for the rest."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether to tell the log probabilities of the text's tokens."""
        return OUTPUT_LOGPROBS in (self.include or ())


_decoder = msgspec.json.Decoder(ResponsesRequest)


def decode_responses(body: bytes) -> ResponsesRequest:
    """Decode a request, and check what only this API has.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_decoder, body)
    values = _refused_values(request)
    if values != _NONE_REFUSED:
        _check_refused(values)
    if request.truncation == "auto":
        raise _unsupported("truncation", " when it is 'auto'; shorten `input`")
    if request.top_logprobs and not request.wants_logprobs:
        text = f"`top_logprobs` needs {OUTPUT_LOGPROBS!r} in `include`"
        raise InvalidValueError(text, param="top_logprobs")
    if request.reasoning is not None:
        _check_reasoning(request.reasoning)
    return request


def _check_refused(values: tuple[Any, ...]) -> None:
    for name, value in zip(_REFUSED, values, strict=True):
        if value is None or (value is False and name in _FALSE_IS_NEUTRAL):
            continue
        raise _unsupported(name, f"; {_INSTEAD[name]}" if name in _INSTEAD else "")


def _check_reasoning(reasoning: ReasoningOptions) -> None:
    for name in ("summary", "generate_summary"):
        value = getattr(reasoning, name)
        if value not in {None, "auto"}:
            instead = (
                f" when it is {value!r}: reasoning is shown in full; use 'auto' or leave it out"
            )
            raise _unsupported(f"reasoning.{name}", instead)
    if reasoning.context not in {None, "auto"}:
        instead = f" when it is {reasoning.context!r}: the model's chat template decides"
        raise _unsupported("reasoning.context", instead)
    if reasoning.mode not in {None, "standard"}:
        raise _unsupported("reasoning.mode", "; use 'standard' or leave it out")


def _unsupported(name: str, instead: str) -> InvalidRequestError:
    text = f"`{name}` is not supported by this server{instead}"
    return UnsupportedParameterError(text, param=name)
