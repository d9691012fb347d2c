"""The input items of the Responses API as chat messages.

What the model said in one turn is several items there (reasoning, a message, tool calls) and one
message in a chat; so items that follow each other become one message as far as they fit into it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.field_paths import Sources, convert, inside

Status = Literal["in_progress", "completed", "incomplete"]


class MessageItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message; `phase` is a label of OpenAI's that no chat template knows."""

    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[dict[str, Any]]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text; what else it may have says where to cut a cache, or came with an answer."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    caller: Any = None
    namespace: Any = None


class FunctionCallOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[dict[str, Any]]
    id: str | None = None
    status: Status | None = None
    name: str | None = None
    caller: Any = None
    namespace: Any = None


class ReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of what the model thought, or of a summary of it."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model thought."""

    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None
    summary: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        """The reasoning, or what is known of it."""
        return "\n".join(part.text for part in self.content or self.summary or ())


_Item = MessageItem | FunctionCall | FunctionCallOutput | Reasoning
_ITEMS: dict[str, type[_Item]] = {
    "message": MessageItem,
    "function_call": FunctionCall,
    "function_call_output": FunctionCallOutput,
    "reasoning": Reasoning,
}


class Conversation:
    """Chat messages put together from items.

    Args:
        sources: Is told where each field comes from.

    Attributes:
        messages: The messages.
        unfinished: Whether the last one is to be gone on with.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.messages: list[dict[str, Any]] = []
        self.unfinished = False

    def say(self, role: str, text: str, source: str) -> None:
        """Add a message that is one text."""
        self._add({"role": role, "content": text}, source)
        self._note("content", source)

    def add(self, document: dict[str, Any], where: str) -> None:
        """Add an item.

        Raises:
            InvalidRequestError: It is of a kind that isn't served, or not right.
        """
        item = convert(document, _ITEMS[_kind(document, where)], inside(where))
        self.unfinished = False
        if isinstance(item, MessageItem):
            self._add_message(item, where)
        elif isinstance(item, FunctionCall):
            self._add_call(item, where)
        elif isinstance(item, FunctionCallOutput):
            self._add_output(item, where)
        else:
            self._add_reasoning(item, where)

    def _add_message(self, item: MessageItem, where: str) -> None:
        assistant = item.role == "assistant"
        content = _content(item.content, f"{where}.content", assistant=assistant)
        if not assistant:
            self._add({"role": item.role, "content": content}, where)
        else:
            self._answer(where, "content", "tool_calls")["content"] = content
            # As in vLLM: the model goes on with what it was saying.
            self.unfinished = bool(content) and item.status in {"in_progress", "incomplete"}
        self._note("content", f"{where}.content")

    def _add_call(self, item: FunctionCall, where: str) -> None:
        _check_call_origin(item, where)
        calls = self._answer(where).setdefault("tool_calls", [])
        function = {"name": item.name, "arguments": item.arguments}
        field = f"tool_calls[{len(calls)}]"
        calls.append({"id": item.call_id, "type": "function", "function": function})
        self._note(field, where)
        self._note(f"{field}.id", f"{where}.call_id")
        self._note(f"{field}.function", where)

    def _add_output(self, item: FunctionCallOutput, where: str) -> None:
        _check_call_origin(item, where)
        output = _content(item.output, f"{where}.output", assistant=False)
        message: dict[str, Any] = {"role": "tool", "tool_call_id": item.call_id, "content": output}
        if item.name is not None:
            message["name"] = item.name
        self._add(message, where)
        self._note("content", f"{where}.output")
        self._note("tool_call_id", f"{where}.call_id")

    def _add_reasoning(self, item: Reasoning, where: str) -> None:
        if item.encrypted_content and not item.content:
            where = f"{where}.encrypted_content"
            text = f"`{where}` can't be read by this server; send the reasoning in `content`"
            raise UnsupportedParameterError(text, param=where)
        if not item.text:
            return
        message = self._answer(where, "content", "tool_calls")
        before = message.get("reasoning_content")
        message["reasoning_content"] = item.text if before is None else f"{before}\n{item.text}"
        self._note("reasoning_content", f"{where}.content")

    def _answer(self, where: str, *taken: str) -> dict[str, Any]:
        """Return the message that an item of the model's belongs to.

        Args:
            where: The item.
            taken: Fields that the message must not have yet.
        """
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or any(name in last for name in taken):
            last = {"role": "assistant"}
            self._add(last, where)
        return last

    def _add(self, message: dict[str, Any], where: str) -> None:
        self.messages.append(message)
        self._sources.note(f"messages[{len(self.messages) - 1}]", where)

    def _note(self, field: str, source: str) -> None:
        self._sources.note(f"messages[{len(self.messages) - 1}].{field}", source)


def _kind(document: dict[str, Any], where: str) -> str:
    """Return the type of an item; only a message and a reference may leave it out."""
    kind = document.get("type")
    if kind is None:
        kind = "message" if "role" in document else "item_reference" if "id" in document else None
    if kind is None:
        raise InvalidValueError(f"`{where}.type` is required", param=f"{where}.type")
    if isinstance(kind, str) and kind in _ITEMS:
        return kind
    instead = "; nothing is stored, so send the item itself" if kind == "item_reference" else ""
    kinds = ", ".join(map(repr, _ITEMS))
    text = f"`{where}.type` must be one of {kinds}, got {repr(kind)[:80]}{instead}"
    raise UnsupportedParameterError(text, param=f"{where}.type")


def _parts(documents: list[dict[str, Any]], where: str, *, assistant: bool) -> list[dict[str, Any]]:
    """Return the parts of a content as chat messages have them, each at its place."""
    parts = []
    for index, document in enumerate(documents):
        place = f"{where}[{index}]"
        kind = document.get("type")
        if kind is None:
            raise InvalidValueError(f"`{place}.type` is required", param=f"{place}.type")
        allowed = ("output_text", "input_text", "refusal") if assistant else ("input_text",)
        if kind not in allowed:
            kinds = " or ".join(map(repr, allowed))
            text = f"`{place}.type` must be {kinds}, got {repr(kind)[:80]}"
            raise UnsupportedParameterError(text, param=f"{place}.type")
        if kind == "refusal":
            refusal = convert(document, RefusalPart, inside(place))
            parts.append({"type": "refusal", "refusal": refusal.refusal})
        else:
            parts.append({"type": "text", "text": convert(document, TextPart, inside(place)).text})
    return parts


def _content(content: str | list[dict[str, Any]], where: str, *, assistant: bool) -> Any:
    """Return a content as chat messages have it: a text, or parts that are each at their place."""
    return content if isinstance(content, str) else _parts(content, where, assistant=assistant)


def _check_call_origin(item: FunctionCall | FunctionCallOutput, where: str) -> None:
    """Check that a call was the model's own, of a tool that stands by itself."""
    if item.caller not in (None, {"type": "direct"}):
        name = f"{where}.caller"
        text = f"`{name}` must be {{'type': 'direct'}} or left out"
        raise UnsupportedParameterError(text, param=name)
    if item.namespace is not None:
        name = f"{where}.namespace"
        raise UnsupportedParameterError(f"`{name}` is not supported by this server", param=name)
