"""Requests as OpenAI defines them, decoded and checked.

`decode_chat` returns a request in which every field has a right type and range and nothing would be
ignored that changes the answer; what is left to check needs the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vgate.errors import (
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from vgate.validation import explain
from vgate.wire.sampling import FIELDS as SAMPLING_FIELDS
from vgate.wire.sampling import SamplingParams

_Request = TypeVar("_Request")

MAX_CHOICES = 16
MAX_STOPS = 16

StopString = Annotated[str, Meta(min_length=1, max_length=1024)]


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content; only text can be served."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Accepted(SamplingParams, kw_only=True, frozen=True):
    """Fields that concern OpenAI's platform and not the answer: taken, without effect."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None


class Unsupported(Accepted, kw_only=True, frozen=True):
    """Fields that would change the answer and aren't served; only their neutral values pass."""

    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None


_UNSUPPORTED = Unsupported.__struct_fields__[len(Accepted.__struct_fields__) :]

# Values with which an unsupported field changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
}


class ChatRequest(Unsupported, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer, if the client set it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


# How an answer is delivered, and what is taken without effect. `model` may be an alias.
_NOT_SHAPING: dict[str, Any] = dict.fromkeys(
    ("stream", "stream_options", *Accepted.__struct_fields__[len(SAMPLING_FIELDS) :])
) | {"model": ""}

_decoder = msgspec.json.Decoder(ChatRequest)


def decode_request(decoder: msgspec.json.Decoder[_Request], body: bytes) -> _Request:
    """Decode a request's body.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(error, body) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the body is not valid JSON in UTF-8: {error}"
        raise InvalidJSONError(message) from None
    except RecursionError:
        message = "the body is nested too deeply"
        raise InvalidJSONError(message) from None


def decode_chat(body: bytes) -> ChatRequest:
    """Decode and check a chat request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_decoder, body)
    _check_unsupported(request)
    _check_messages(request.messages)
    _check_combinations(request)
    return request


def shaping_fields(request: ChatRequest) -> ChatRequest:
    """Return the request without what does not shape the answer's text.

    Two requests for which this is equal (as are their prompts, complete parameters and model) get
    the same answer. A new field shapes the answer until it is named here.
    """
    return msgspec.structs.replace(request, **_NOT_SHAPING)


def template_messages(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """Return messages as chat templates know them: roles they have, and content as one text."""
    return [
        {
            # OpenAI renamed "system" for its newer models; templates know the old name.
            "role": "system" if message.role == "developer" else message.role,
            "content": _text(message.content),
            **({"name": message.name} if message.name is not None else {}),
        }
        for message in messages
    ]


def _text(content: str | list[ContentPart] | None) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(part.text or "" for part in content)


def _explained(error: msgspec.ValidationError, body: bytes) -> InvalidRequestError:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The decoder stops at the first fault; what comes after it need not be JSON at all.
        document = None
    problem = explain(error, document)
    kind = UnknownParameterError if problem.kind == "unknown" else InvalidValueError
    return kind(str(problem), param=problem.path or None)


def _check_unsupported(request: ChatRequest) -> None:
    for name in _UNSUPPORTED:
        value = getattr(request, name)
        if value is not None and value not in _NEUTRAL.get(name, ()):
            message = f"`{name}` is not supported by this server"
            raise UnsupportedParameterError(message, param=name)


def _check_messages(messages: list[ChatMessage]) -> None:
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        for name in ("tool_calls", "tool_call_id", "function_call", "audio"):
            if getattr(message, name) is not None:
                text = f"`{where}.{name}` is not supported by this server"
                raise UnsupportedParameterError(text, param=f"{where}.{name}")
        if message.role in {"tool", "function"}:
            text = f"`{where}.role` {message.role!r} is not supported by this server"
            raise UnsupportedParameterError(text, param=f"{where}.role")
        if message.content is None:
            text = f"`{where}.content` is required"
            raise InvalidValueError(text, param=f"{where}.content")
        if not isinstance(message.content, str):
            _check_parts(message.content, f"{where}.content")


def _check_parts(parts: list[ContentPart], where: str) -> None:
    for index, part in enumerate(parts):
        if part.type != "text":
            text = f"`{where}[{index}].type` must be 'text' for this model, got {part.type!r}"
            raise UnsupportedParameterError(text, param=f"{where}[{index}].type")
        if part.text is None:
            text = f"`{where}[{index}].text` is required"
            raise InvalidValueError(text, param=f"{where}[{index}].text")


def _check_combinations(request: ChatRequest) -> None:
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "set only one of `max_tokens` and `max_completion_tokens`"
        raise InvalidValueError(message, param="max_tokens")
    if request.stream_options is not None and not request.stream:
        message = "`stream_options` is only allowed with `stream: true`"
        raise InvalidValueError(message, param="stream_options")
    limit = request.token_limit
    if limit is not None and (request.min_tokens or 0) > limit:
        message = f"`min_tokens` must be at most the token limit {limit}, got {request.min_tokens}"
        raise InvalidValueError(message, param="min_tokens")
