"""The messages of a chat request: their checks, and how they become a conversation."""

from operator import attrgetter
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import check_json
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.shared import CallText, arguments_of
from vgate.frontend.pipeline import MadeCall, Message, Role


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content; only text can be served."""

    type: str
    text: str | None = None
    refusal: str | None = None


class EarlierFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function of an earlier call; `arguments` is an object, most often as JSON text."""

    name: CallText
    arguments: str | dict[str, Any] | None = None


class EarlierToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model made before; clients that assemble stream chunks leave `index` in."""

    id: CallText
    function: EarlierFunction | None = None
    type: str = "function"
    custom: Any = None
    index: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation. `annotations` come from OpenAI's web search."""

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


# All fields but role and content; few messages have any.
_other_fields = attrgetter(*ChatMessage.__struct_fields__[2:])
_NO_OTHER_FIELDS = (None,) * len(ChatMessage.__struct_fields__[2:])
# A tool's message needs other fields, a function's is refused.
_ALWAYS_CHECKED = frozenset({"tool", "function"})

_ASSISTANT_FIELDS = ("tool_calls", "reasoning", "reasoning_content", "refusal")


def check_messages(messages: list[ChatMessage]) -> None:
    """Check what the types of messages can't express."""
    for index, message in enumerate(messages):
        if not _is_text(message) or message.role in _ALWAYS_CHECKED:
            _check_message(message, f"messages[{index}]")


def neutral_message(message: ChatMessage) -> Message:
    """Convert a message that `check_messages` has accepted."""
    # OpenAI's newer name of "system"; templates know the old name.
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
    """Whether a message has text and no other field."""
    return isinstance(message.content, str) and _other_fields(message) == _NO_OTHER_FIELDS


def _reasoning(message: ChatMessage) -> str | None:
    """Return the reasoning; `reasoning_content` is its older name."""
    return message.reasoning_content if message.reasoning is None else message.reasoning


def _check_message(message: ChatMessage, path: str) -> None:
    _check_role(message, path)
    check_json(message.annotations, f"{path}.annotations")
    if message.content is None:
        # A model that calls tools, reasons or refuses need not write text.
        if not (message.tool_calls or message.refusal or _reasoning(message)):
            raise invalid(f"{path}.content", "is required")
    elif not isinstance(message.content, str):
        _check_parts(message, message.content, f"{path}.content")
    for index, call in enumerate(message.tool_calls or ()):
        _check_call(call, f"{path}.tool_calls[{index}]")


def _check_role(message: ChatMessage, path: str) -> None:
    """Check that a message has the fields that its role needs, and none of another role."""
    if message.role == "function":
        problem = "is not supported by this server when it is 'function'; use 'tool'"
        raise unsupported(f"{path}.role", problem)
    for name, instead in (("function_call", "; use `tool_calls`"), ("audio", "")):
        if getattr(message, name) is not None:
            raise unsupported(f"{path}.{name}", f"is not supported by this server{instead}")
    if message.role != "assistant":
        for name in _ASSISTANT_FIELDS:
            if getattr(message, name):
                problem = "is only allowed in messages of role 'assistant'"
                raise invalid(f"{path}.{name}", problem)
    if message.role != "tool":
        if message.tool_call_id is not None:
            problem = "is only allowed in messages of role 'tool'"
            raise invalid(f"{path}.tool_call_id", problem)
    elif not message.tool_call_id:
        raise invalid(f"{path}.tool_call_id", "is required")


def _check_parts(message: ChatMessage, parts: list[ContentPart], path: str) -> None:
    for index, part in enumerate(parts):
        field = "refusal" if part.type == "refusal" and message.role == "assistant" else "text"
        if part.type != field:
            problem = f"must be 'text' for this model, got {part.type[:80]!r}"
            raise unsupported(f"{path}[{index}].type", problem)
        if getattr(part, field) is None:
            raise invalid(f"{path}[{index}].{field}", "is required")


def _check_call(call: EarlierToolCall, path: str) -> None:
    if call.type != "function" or call.custom is not None:
        raise unsupported(f"{path}.type", f"must be 'function', got {call.type[:80]!r}")
    if call.function is None:
        raise invalid(f"{path}.function", "is required")
    check_json(_arguments(call.function.arguments), f"{path}.function.arguments")


def _arguments(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    return arguments_of(arguments) if isinstance(arguments, str) else arguments or {}
