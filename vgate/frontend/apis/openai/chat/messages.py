"""The messages of a chat request: checked, and as the neutral request has them."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import check_json
from vgate.frontend.apis.shared import CallText, arguments_of
from vgate.frontend.pipeline.generation import MadeCall, Message, Role


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content; only text can be served."""

    type: str
    text: str | None = None
    refusal: str | None = None


class EarlierFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model called: `arguments` is an object, most often as JSON text."""

    name: CallText
    arguments: str | dict[str, Any] | None = None


class EarlierToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model made before; `index` is left over in what clients put together."""

    id: CallText
    function: EarlierFunction | None = None
    type: str = "function"
    custom: Any = None
    index: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation. `annotations` are OpenAI's, of its web search."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[EarlierToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None


# What a message may have beside its role and text, which nearly none has.
_more = attrgetter(*(set(ChatMessage.__struct_fields__) - {"role", "content"}))
_NO_MORE = (None,) * (len(ChatMessage.__struct_fields__) - 2)
# Roles whose messages need more, or that are refused.
_WITH_MORE = frozenset({"tool", "function"})

# Fields of one role only.
_OF_ASSISTANT = ("tool_calls", "reasoning", "reasoning_content", "refusal")


def check_messages(messages: list[ChatMessage]) -> None:
    """Check what the types can't say of a conversation.

    Raises:
        InvalidRequestError: With the path of the field at fault.
    """
    for index, message in enumerate(messages):
        if not _is_text(message) or message.role in _WITH_MORE:
            _check_message(message, f"messages[{index}]")


def neutral_message(message: ChatMessage) -> Message:
    """Return a message that `check_messages` has accepted as the neutral request has it."""
    # OpenAI renamed "system" for its newer models; templates know the old name.
    role = cast("Role", "system" if message.role == "developer" else message.role)
    if _is_text(message):
        return Message(role, message_text(message))
    calls = [
        MadeCall(call.id, call.function.name, _arguments(call.function.arguments))
        for call in message.tool_calls or ()
        if call.function is not None
    ]
    return Message(
        role,
        message_text(message),
        reasoning=_reasoning(message),
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def message_text(message: ChatMessage) -> str:
    """Return the text of a message."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        return message.refusal or ""
    return "\n".join((part.text if part.type == "text" else part.refusal) or "" for part in content)


def _is_text(message: ChatMessage) -> bool:
    """Say whether a message is a text and nothing else."""
    return isinstance(message.content, str) and _more(message) == _NO_MORE


def _reasoning(message: ChatMessage) -> str | None:
    """Return the reasoning; `reasoning_content` is its older name."""
    return message.reasoning_content if message.reasoning is None else message.reasoning


def _check_message(message: ChatMessage, where: str) -> None:
    _check_role(message, where)
    check_json(message.annotations, f"{where}.annotations")
    if message.content is None:
        # A model that calls tools, thinks or refuses need not say anything.
        if not (message.tool_calls or message.refusal or _reasoning(message)):
            raise _required(f"{where}.content")
    elif not isinstance(message.content, str):
        _check_parts(message, message.content, f"{where}.content")
    for index, call in enumerate(message.tool_calls or ()):
        _check_call(call, f"{where}.tool_calls[{index}]")


def _check_role(message: ChatMessage, where: str) -> None:
    """Check that a message has what its role needs, and nothing of another one's."""
    if message.role == "function":
        raise _unsupported(f"{where}.role", " when it is 'function'; use 'tool'")
    for name, instead in (("function_call", "; use `tool_calls`"), ("audio", "")):
        if getattr(message, name) is not None:
            raise _unsupported(f"{where}.{name}", instead)
    if message.role != "assistant":
        for name in _OF_ASSISTANT:
            if getattr(message, name):
                raise _misplaced(f"{where}.{name}", "assistant")
    if message.role != "tool":
        if message.tool_call_id is not None:
            raise _misplaced(f"{where}.tool_call_id", "tool")
    elif not message.tool_call_id:
        raise _required(f"{where}.tool_call_id")


def _check_parts(message: ChatMessage, parts: list[ContentPart], where: str) -> None:
    for index, part in enumerate(parts):
        field = "refusal" if part.type == "refusal" and message.role == "assistant" else "text"
        if part.type != field:
            text = f"`{where}[{index}].type` must be 'text' for this model, got {part.type[:80]!r}"
            raise UnsupportedParameterError(text, param=f"{where}[{index}].type")
        if getattr(part, field) is None:
            raise _required(f"{where}[{index}].{field}")


def _check_call(call: EarlierToolCall, where: str) -> None:
    if call.type != "function" or call.custom is not None:
        text = f"`{where}.type` must be 'function', got {call.type[:80]!r}"
        raise UnsupportedParameterError(text, param=f"{where}.type")
    if call.function is None:
        raise _required(f"{where}.function")
    where = f"{where}.function.arguments"
    check_json(_arguments(call.function.arguments), where)


def _arguments(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    return arguments_of(arguments) if isinstance(arguments, str) else arguments or {}


def _required(where: str) -> InvalidRequestError:
    return InvalidValueError(f"`{where}` is required", param=where)


def _misplaced(where: str, role: str) -> InvalidRequestError:
    return InvalidValueError(f"`{where}` is only allowed in messages of role {role!r}", param=where)


def _unsupported(where: str, instead: str) -> InvalidRequestError:
    return UnsupportedParameterError(
        f"`{where}` is not supported by this server{instead}", param=where
    )
