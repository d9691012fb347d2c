"""What answers of the Messages API are made of: blocks, the stop reason, token counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jiter
import msgspec

from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result, TokenCounts
from vgate.frontend.ids import new_id

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

# Nothing is signed: reasoning comes back as text. Some clients drop thinking that has no
# signature, so there is one.
SIGNATURE = "unsigned"

# Where Anthropic's documentation has clients put arguments that aren't JSON, so that the model gets
# to see them (its page on fine-grained tool streaming).
INVALID_KEY = "INVALID_JSON"

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class TextOutput(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A block of text."""

    text: str
    citations: None = None


class ThinkingOutput(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """A block of reasoning."""

    thinking: str
    signature: str = SIGNATURE


class ToolUseOutput(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A block with a tool call."""

    id: str
    name: str
    input: msgspec.Raw


OutputBlock = TextOutput | ThinkingOutput | ToolUseOutput


class ThinkingTokens(msgspec.Struct, frozen=True):
    """How many of the answer's tokens are reasoning."""

    thinking_tokens: int


class MessagesUsage(msgspec.Struct, frozen=True):
    """Token counts. The prompt's are `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens

    @classmethod
    def of(cls, counts: TokenCounts) -> MessagesUsage:
        """Convert the counts."""
        details = ThinkingTokens(counts.reasoning)
        return cls(counts.prompt - counts.cached, 0, counts.cached, counts.completion, details)


class MessagesResponse(msgspec.Struct, frozen=True):
    """The response to a request that is not streamed."""

    id: str
    model: str
    content: list[OutputBlock]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: MessagesUsage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


def whole_message(answer: Result, model: str) -> bytes:
    """Return the body of an answer that is not streamed."""
    (choice,) = answer.choices
    called = bool(choice.tool_calls)
    reason, sequence = stop_of(choice.finish_reason, choice.stop_reason, called=called)
    usage = MessagesUsage.of(answer.counts)
    return _encode(
        MessagesResponse(new_message_id(), model, _content(choice), reason, sequence, usage)
    )


def _content(choice: ChoiceResult) -> list[OutputBlock]:
    content: list[OutputBlock] = []
    if choice.reasoning:
        content.append(ThinkingOutput(choice.reasoning))
    if choice.text:
        content.append(TextOutput(choice.text))
    content += [
        ToolUseOutput(call.id, call.name, tool_input(call.arguments)) for call in choice.tool_calls
    ]
    # Clients look at the first block without asking whether there is one.
    return content or [TextOutput("")]


def stop_of(
    finish_reason: FinishReason, stop_reason: int | str | None, *, called: bool
) -> tuple[StopReason, str | None]:
    """Return why an answer ended, and the client's stop sequence that ended it, if one did.

    Args:
        finish_reason: Why the choice ended.
        stop_reason: The stop string or token that ended it, if one did.
        called: Whether the model called tools.
    """
    if finish_reason == "length":
        return "max_tokens", None
    if isinstance(stop_reason, str):
        return "stop_sequence", stop_reason
    return ("tool_use" if called else "end_turn"), None


def tool_input(arguments: str) -> msgspec.Raw:
    """Return a call's arguments as an object, whatever the model wrote.

    Of arguments that were cut, the object has what is complete, as in the client library's stream.
    Text that is no JSON object becomes an object with that text in it, so that no tool runs on
    arguments that nobody gave.
    """
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    try:
        _decode_object(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return msgspec.Raw(_completed(arguments) or _encode({INVALID_KEY: arguments}))
    return msgspec.Raw(arguments.encode())


def _completed(text: str) -> bytes | None:
    """Return the object that was cut to this text; None if the text isn't a cut object."""
    parse = partial(jiter.from_json, text.encode(), allow_inf_nan=False, cache_mode="none")
    # The partial mode also takes wrong text after what is complete, such as `{"a": 1}}`.
    if not text.lstrip().startswith("{") or not _is_cut(parse):
        return None
    try:
        # Keeps integers of any size. A float may be too large for JSON to say again.
        return json.dumps(parse(partial_mode=True), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None


def _is_cut(parse: Callable[[], Any]) -> bool:
    try:
        parse()
    except ValueError as error:
        return str(error).startswith("EOF while parsing")
    return False


def new_message_id() -> str:
    """Return a new id of a message."""
    return new_id("msg_")
