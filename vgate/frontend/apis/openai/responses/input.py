"""The input items of the Responses API as messages.

What the model wrote in one turn is several items there (reasoning, a message, tool calls) and one
message of a conversation; so consecutive items become one message as far as they fit into it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import ServedTypes, check_json, convert_part, unsupported_type
from vgate.frontend.apis.fields import ACCEPTED, RefusedFields, refused
from vgate.frontend.apis.shared import CallText, arguments_of
from vgate.frontend.pipeline.generation import MadeCall, Message

ItemStatus = Literal["in_progress", "completed", "incomplete"]
_Id = Annotated[str | None, ACCEPTED]


class _TextPart(msgspec.Struct, frozen=True, kw_only=True):
    """Text; the other fields say where to cut a cache, or came with an answer."""

    text: str
    annotations: Annotated[list[Any] | None, ACCEPTED] = None
    logprobs: Annotated[list[Any] | None, ACCEPTED] = None
    prompt_cache_breakpoint: Annotated[Any, ACCEPTED] = None


class InputText(_TextPart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a message to the model."""

    type: Literal["input_text"]


class AssistantInputText(_TextPart, frozen=True, forbid_unknown_fields=True, tag="input_text"):
    """A part of a message of the model's, as some clients send it."""


class AssistantText(_TextPart, frozen=True, forbid_unknown_fields=True, tag="output_text"):
    """A part of a message of the model's."""


class AssistantRefusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """What the model said instead of an answer."""

    refusal: str

    @property
    def text(self) -> str:
        """Its text."""
        return self.refusal


AssistantPart = AssistantText | AssistantInputText | AssistantRefusal


class InputMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to the model; `phase` is a label of OpenAI's that no chat template knows."""

    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputText]
    type: Literal["message"] = "message"
    id: _Id = None
    status: ItemStatus | None = None
    phase: Annotated[Literal["commentary", "final_answer"] | None, ACCEPTED] = None


class AssistantMessage(InputMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message of the model's."""

    content: str | list[AssistantPart]  # type: ignore[assignment]


class _CallItem(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a call of a tool that stands by itself."""

    id: _Id = None
    status: Annotated[ItemStatus | None, ACCEPTED] = None
    caller: Annotated[Any, refused({"type": "direct"})] = None
    namespace: Annotated[Any, refused()] = None


class InputFunctionCall(_CallItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: CallText
    name: CallText
    arguments: str


class InputCallOutput(_CallItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, msgspec.Meta(min_length=1)]
    output: str | list[InputText]
    name: str | None = None


class InputReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the model's reasoning, or of a summary of it."""

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


_Item = InputMessage | InputFunctionCall | InputCallOutput | InputReasoning
_ITEMS: dict[str, type[_Item]] = {
    "message": InputMessage,
    "function_call": InputFunctionCall,
    "function_call_output": InputCallOutput,
    "reasoning": InputReasoning,
}
# OpenAI's API has more: images, files, audio.
_INPUT_PARTS: ServedTypes = (
    (re.compile(r"content\[\d+\]"), ("input_text",)),
    (re.compile(r"output\[\d+\]"), ("input_text",)),
)
_ASSISTANT_PARTS: ServedTypes = (
    (re.compile(r"content\[\d+\]"), ("output_text", "input_text", "refusal")),
)
_refused_of_calls = RefusedFields(_CallItem)


class _Turn(msgspec.Struct):
    """What the model wrote in one turn: reasoning, then text, then calls."""

    reasoning: str | None = None
    content: str | None = None
    calls: list[MadeCall] = []


class InputConversation:
    """Messages put together from items.

    Attributes:
        messages: The messages.
        unfinished: Whether the answer continues the last one.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.unfinished = False
        # The model's turn at the end, which has no message yet.
        self._turn: _Turn | None = None

    def say(self, role: Literal["system", "user"], text: str) -> None:
        """Add a message that is one text."""
        self._add(Message(role, text))

    def add(self, document: dict[str, Any], where: str) -> None:
        """Add an item.

        Raises:
            InvalidRequestError: The item is of a type that isn't served, or invalid.
        """
        item = _item_of(document, where)
        self.unfinished = False
        if isinstance(item, _CallItem):
            _refused_of_calls.check(item, f"{where}.")
        if isinstance(item, InputFunctionCall):
            arguments = arguments_of(item.arguments)
            check_json(arguments, f"{where}.arguments")
            self._model_turn().calls.append(MadeCall(item.call_id, item.name, arguments))
        elif isinstance(item, InputCallOutput):
            output = _text_of(item.output)
            self._add(Message("tool", output, tool_call_id=item.call_id, name=item.name))
        elif isinstance(item, InputReasoning):
            self._add_reasoning(item, where)
        elif isinstance(item, AssistantMessage):
            turn = self._model_turn(after_text=False)
            turn.content = _text_of(item.content)
            # As in vLLM: the model continues its unfinished message.
            self.unfinished = bool(turn.content) and item.status in {"in_progress", "incomplete"}
        else:
            # OpenAI renamed "system" for its newer models; templates know the old name.
            text = _text_of(item.content)
            self._add(Message("user" if item.role == "user" else "system", text))

    def finish(self) -> list[Message]:
        """Return the messages, complete."""
        if self._turn is not None:
            turn, self._turn = self._turn, None
            self.messages.append(
                Message("assistant", turn.content or "", turn.reasoning, turn.calls)
            )
        return self.messages

    def _add(self, message: Message) -> None:
        self.finish().append(message)

    def _add_reasoning(self, item: InputReasoning, where: str) -> None:
        if item.encrypted_content and not item.content:
            where = f"{where}.encrypted_content"
            text = f"`{where}` can't be read by this server; send the reasoning in `content`"
            raise UnsupportedParameterError(text, param=where)
        text = "\n".join(part.text for part in item.content or item.summary or ())
        if text:
            turn = self._model_turn(after_text=False)
            turn.reasoning = text if turn.reasoning is None else f"{turn.reasoning}\n{text}"

    def _model_turn(self, *, after_text: bool = True) -> _Turn:
        """Return the turn that an item of the model's belongs to.

        Args:
            after_text: Whether the item may come after text or calls of its turn.
        """
        turn = self._turn
        if turn is None or not (after_text or (turn.content is None and not turn.calls)):
            self.finish()
            turn = self._turn = _Turn()
        return turn


def _text_of(content: str | list[InputText] | list[AssistantPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _item_of(document: dict[str, Any], where: str) -> _Item:
    """Decode an item; only a message and a reference may leave out their type."""
    kind = document.get("type")
    if kind is None:
        kind = "message" if "role" in document else "item_reference" if "id" in document else None
    if kind is None:
        raise InvalidValueError(f"`{where}.type` is required", param=f"{where}.type")
    if kind == "item_reference":
        text = f"`{where}.type` 'item_reference': nothing is stored, so send the item itself"
        raise UnsupportedParameterError(text, param=f"{where}.type")
    if not isinstance(kind, str) or kind not in _ITEMS:
        raise unsupported_type(f"{where}.type", kind, _ITEMS)
    if kind == "reasoning":
        return convert_part(document, InputReasoning, where)
    if kind == "message" and document.get("role") == "assistant":
        return convert_part(document, AssistantMessage, where, _ASSISTANT_PARTS)
    return convert_part(document, _ITEMS[kind], where, _INPUT_PARTS)
