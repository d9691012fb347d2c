"""The messages of a chat request: their checks, and how they become a conversation."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import check_json, check_json_text
from vgate.frontend.apis.fields import ACCEPTED, FieldPolicies, ignored
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.openai.tools import INPUT
from vgate.frontend.apis.shared import CallText, arguments_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import MadeCall, Message

# Parts of other clients and APIs that are text, and those of an earlier answer's reasoning, which
# templates have no place for.
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_REASONING_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text"})
# Ignored; the last one stands for a tool that was found by a search for tools.
_LEFT_OUT = _REASONING_PARTS | {"tool_reference"}


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content; only text can be served. Its other fields mark caches."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None

    @property
    def content(self) -> str:
        """Its text."""
        if self.type in _LEFT_OUT:
            return ""
        return (self.refusal if self.type == "refusal" else self.text) or ""


class EarlierFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function of an earlier call; `arguments` is an object, most often as JSON text."""

    name: CallText
    arguments: str | dict[str, Any] | None = None


class EarlierCustom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The custom tool of an earlier call."""

    name: CallText
    input: str | None = None


class EarlierToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model made before; clients that assemble stream chunks leave `index` in."""

    id: str = ""
    function: EarlierFunction | None = None
    type: str = "function"
    custom: EarlierCustom | None = None
    index: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation. `annotations` come from OpenAI's web search.

    A role that OpenAI doesn't have goes to the chat template as it is.
    """

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[EarlierToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: Annotated[Any, ignored()] = None
    audio: Annotated[Any, ignored()] = None
    annotations: Annotated[Any, ACCEPTED] = None


# All fields but role and content; few messages have any.
_NO_OTHER_FIELDS = (None,) * len(ChatMessage.__struct_fields__[2:])
_policies = FieldPolicies(ChatMessage)

# Only the model's own messages have them.
_ASSISTANT_FIELDS = ("tool_calls", "reasoning", "reasoning_content", "refusal")
# OpenAI's newer and older names of roles; templates know these.
_ROLES = {"developer": "system", "function": "tool"}


def check_messages(messages: list[ChatMessage], ignored: Ignored) -> None:
    """Check what the types of messages can't express."""
    for index, message in enumerate(messages):
        if not _is_text(message):
            _check_message(message, f"messages[{index}]", ignored)


def neutral_message(message: ChatMessage) -> Message:
    """Convert a message that `check_messages` has accepted."""
    role = _ROLES.get(message.role, message.role)
    if _is_text(message):
        return Message(role, message_text(message))
    if role != "assistant":
        text, id_ = message_text(message), message.tool_call_id
        return Message(role, text, tool_call_id=id_ if role == "tool" else None, name=message.name)
    return Message(
        role,
        message_text(message),
        reasoning=_reasoning(message),
        tool_calls=[_made_call(call) for call in message.tool_calls or ()],
        name=message.name,
    )


def message_text(message: ChatMessage) -> str:
    """Return the text of a message."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        return message.refusal or ""
    return "\n".join(part.content for part in content if part.type not in _LEFT_OUT)


def _is_text(message: ChatMessage) -> bool:
    """Whether a message has text and no other field."""
    other_fields = msgspec.structs.astuple(message)[2:]
    return isinstance(message.content, str) and other_fields == _NO_OTHER_FIELDS


def _reasoning(message: ChatMessage) -> str | None:
    """Return the reasoning; `reasoning_content` is its older name."""
    return message.reasoning_content if message.reasoning is None else message.reasoning


def _check_message(message: ChatMessage, path: str, ignored: Ignored) -> None:
    _policies.check(message, ignored, f"{path}.")
    check_json(message.annotations, f"{path}.annotations")
    if isinstance(message.content, list):
        _check_parts(message.content, f"{path}.content", ignored)
    if message.role != "assistant":
        for name in _ASSISTANT_FIELDS:
            if getattr(message, name):
                ignored.add(f"{path}.{name}")
    if message.tool_call_id and _ROLES.get(message.role, message.role) != "tool":
        ignored.add(f"{path}.tool_call_id")
    for index, call in enumerate(message.tool_calls or ()):
        _check_call(call, f"{path}.tool_calls[{index}]")


def _check_parts(parts: list[ContentPart], path: str, ignored: Ignored) -> None:
    for index, part in enumerate(parts):
        if part.type in _LEFT_OUT:
            ignored.add(f"{path}[{index}].{part.type}")
            continue
        field = "refusal" if part.type == "refusal" else "text"
        if field == "text" and part.type not in _TEXT_PARTS:
            problem = f"must be 'text' for this model, got {part.type[:80]!r}"
            raise unsupported(f"{path}[{index}].type", problem)
        if getattr(part, field) is None:
            raise invalid(f"{path}[{index}].{field}", "is required")


def _check_call(call: EarlierToolCall, path: str) -> None:
    if call.type not in {"function", "custom"}:
        problem = f"must be 'function' or 'custom', got {call.type[:80]!r}"
        raise unsupported(f"{path}.type", problem)
    if getattr(call, call.type) is None:
        raise invalid(f"{path}.{call.type}", "is required")
    if call.type == "function" and call.function is not None:
        arguments, path = call.function.arguments, f"{path}.function.arguments"
        if isinstance(arguments, str):
            check_json_text(arguments, path)
        check_json(_arguments(arguments), path)


def _made_call(call: EarlierToolCall) -> MadeCall:
    if call.type == "custom" and call.custom is not None:
        return MadeCall(call.id, call.custom.name, {INPUT: call.custom.input or ""})
    assert call.function is not None  # as checked
    return MadeCall(call.id, call.function.name, _arguments(call.function.arguments))


def _arguments(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    return arguments_of(arguments) if isinstance(arguments, str) else arguments or {}
