"""Converts the input items of the Responses API to the messages of a conversation.

One turn of the model is several items (reasoning, a message, tool calls) but one message, so
consecutive items become one message where that is possible.
"""

import re
from typing import Annotated, Any, Literal

import msgspec

from vgate.frontend.apis.decoding import (
    ServedTypes,
    check_json,
    check_json_text,
    convert_part,
    unsupported_type,
)
from vgate.frontend.apis.fields import ACCEPTED, FieldPolicies, ignored
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.openai.responses.tools import served_name
from vgate.frontend.apis.openai.tools import INPUT
from vgate.frontend.apis.shared import CallText, arguments_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import MadeCall, Message, Role

ItemStatus = Literal["in_progress", "completed", "incomplete"]
_Id = Annotated[str | None, ACCEPTED]


class _TextPart(msgspec.Struct, frozen=True, kw_only=True):
    """Text; the other fields mark where to cut a cache, or came with an earlier answer."""

    text: str
    annotations: Annotated[list[Any] | None, ACCEPTED] = None
    logprobs: Annotated[list[Any] | None, ACCEPTED] = None
    prompt_cache_breakpoint: Annotated[Any, ACCEPTED] = None


class InputText(_TextPart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a message to the model, or of the result of a call."""

    type: Literal["input_text", "output_text", "text"] = "input_text"


class AssistantInputText(_TextPart, frozen=True, forbid_unknown_fields=True, tag="input_text"):
    """A part of a message from the model, as some clients send it."""


class AssistantText(_TextPart, frozen=True, forbid_unknown_fields=True, tag="output_text"):
    """A part of a message from the model."""


class AssistantRefusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """A refusal by the model."""

    text: str = msgspec.field(name="refusal")


AssistantPart = AssistantText | AssistantInputText | AssistantRefusal


class InputMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to the model; `phase` is OpenAI's label, which no chat template knows."""

    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputText]
    type: Literal["message"] = "message"
    id: _Id = None
    status: ItemStatus | None = None
    phase: Annotated[Literal["commentary", "final_answer"] | None, ACCEPTED] = None


class AssistantMessage(InputMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message from the model."""

    content: str | list[AssistantPart]  # type: ignore[assignment]


class _CallItem(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that a call and its result have in common."""

    id: _Id = None
    status: Annotated[ItemStatus | None, ACCEPTED] = None
    caller: Annotated[Any, ignored({"type": "direct"})] = None
    namespace: str | None = None


class InputFunctionCall(_CallItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An earlier call by the model."""

    type: Literal["function_call"]
    call_id: CallText
    name: CallText
    arguments: str


class InputCustomCall(_CallItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An earlier call of a custom tool by the model."""

    type: Literal["custom_tool_call"]
    call_id: CallText
    name: CallText
    input: str


class InputCallOutput(_CallItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: Annotated[str, msgspec.Meta(min_length=1)]
    output: str | list[InputText]
    name: str | None = None


class InputReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the model's reasoning or of its summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class InputReasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's reasoning."""

    type: Literal["reasoning"]
    content: list[InputReasoningText] | None = None
    summary: list[InputReasoningText] | None = None
    encrypted_content: str | None = None
    id: _Id = None
    status: Annotated[ItemStatus | None, ACCEPTED] = None


_Item = InputMessage | InputFunctionCall | InputCustomCall | InputCallOutput | InputReasoning
# OpenAI's API has more: images, files, audio.
_ASSISTANT_PARTS: ServedTypes = (
    (re.compile(r"content\[\d+\]"), ("output_text", "input_text", "refusal")),
)
_PARTS: ServedTypes = (
    (re.compile(r"(content|output)\[\d+\]"), ("input_text", "output_text", "text")),
)
_ITEMS: dict[str, tuple[type[_Item], ServedTypes]] = {
    "message": (InputMessage, _PARTS),
    "function_call": (InputFunctionCall, ()),
    "function_call_output": (InputCallOutput, _PARTS),
    "custom_tool_call": (InputCustomCall, ()),
    "custom_tool_call_output": (InputCallOutput, _PARTS),
    "reasoning": (InputReasoning, ()),
}
_policies_of_calls = FieldPolicies(_CallItem)


class _Turn(msgspec.Struct):
    """One turn of the model: reasoning, then text, then calls."""

    reasoning: str | None = None
    content: str | None = None
    calls: list[MadeCall] = []


class InputConversation:
    """Builds messages from items; if it is `unfinished`, the answer continues the last one."""

    def __init__(self, instructions: str | None, ignored: Ignored) -> None:
        self._ignored = ignored
        self.unfinished = False
        self._messages: list[Message] = []
        # The model's turn at the end, which is not a message yet.
        self._turn: _Turn | None = None
        if instructions:
            self.add_message("system", instructions)

    def add_message(self, role: Role, text: str, **more: Any) -> None:
        """Add a message; `more` are its other fields."""
        self.finish().append(Message(role, text, **more))

    def add(self, document: dict[str, Any], path: str) -> None:
        """Add an item, or raise if it is invalid or its type isn't served."""
        item = _item_of(document, path, self._ignored)
        if item is None:
            return
        self.unfinished = False
        if isinstance(item, _CallItem):
            _policies_of_calls.check(item, self._ignored, f"{path}.")
        if isinstance(item, InputFunctionCall):
            check_json_text(item.arguments, f"{path}.arguments")
            arguments = arguments_of(item.arguments)
            check_json(arguments, f"{path}.arguments")
            self._model_turn().calls.append(
                MadeCall(item.call_id, served_name(item.namespace, item.name), arguments)
            )
        elif isinstance(item, InputCustomCall):
            arguments = {INPUT: item.input}
            self._model_turn().calls.append(
                MadeCall(item.call_id, served_name(item.namespace, item.name), arguments)
            )
        elif isinstance(item, InputCallOutput):
            output = _text_of(item.output)
            self.add_message("tool", output, tool_call_id=item.call_id, name=item.name)
        elif isinstance(item, InputReasoning):
            self._add_reasoning(item, path)
        elif isinstance(item, AssistantMessage):
            turn = self._model_turn(first=True)
            turn.content = _text_of(item.content)
            # As in vLLM: the model continues its unfinished message.
            self.unfinished = bool(turn.content) and item.status in {"in_progress", "incomplete"}
        else:
            # OpenAI's newer models call "system" "developer"; templates know the old name.
            self.add_message("user" if item.role == "user" else "system", _text_of(item.content))

    def finish(self) -> list[Message]:
        """End the model's turn and return all messages."""
        if self._turn is not None:
            turn, self._turn = self._turn, None
            self._messages.append(
                Message("assistant", turn.content or "", turn.reasoning, turn.calls)
            )
        return self._messages

    def _add_reasoning(self, item: InputReasoning, path: str) -> None:
        if item.encrypted_content and not item.content:
            self._ignored.add(f"{path}.encrypted_content")
        text = "\n".join(part.text for part in item.content or item.summary or ())
        if text:
            turn = self._model_turn(first=True)
            turn.reasoning = text if turn.reasoning is None else f"{turn.reasoning}\n{text}"

    def _model_turn(self, *, first: bool = False) -> _Turn:
        """Return the turn for an item from the model; `first` if it must precede text and calls."""
        turn = self._turn
        if turn is None or (first and (turn.content is not None or turn.calls)):
            self.finish()
            turn = self._turn = _Turn()
        return turn


def _text_of(content: str | list[InputText] | list[AssistantPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def kind_of(document: dict[str, Any]) -> Any:
    """Return an item's type, which only a message and a reference may omit."""
    kind = document.get("type")
    if kind is None:
        kind = "message" if "role" in document else "item_reference" if "id" in document else None
    return kind


def _item_of(document: dict[str, Any], path: str, ignored: Ignored) -> _Item | None:
    """Decode an item; return None, noted as ignored, for one of a tool that isn't served."""
    kind = kind_of(document)
    if kind is None:
        raise invalid(f"{path}.type", "is required")
    if kind == "item_reference":
        # Those of stored items have been replaced by the items.
        raise unsupported(f"{path}.type", "'item_reference' names no stored item")
    if not isinstance(kind, str):
        raise unsupported_type(f"{path}.type", kind, _ITEMS)
    if kind not in _ITEMS:
        ignored.add(f"{path}.type={kind}")
        return None
    if kind == "message" and document.get("role") == "assistant":
        return convert_part(document, AssistantMessage, ignored, path, _ASSISTANT_PARTS)
    struct, types = _ITEMS[kind]
    return convert_part(document, struct, ignored, path, types)
