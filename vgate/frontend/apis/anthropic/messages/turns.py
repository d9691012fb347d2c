"""The conversation of a Messages request as the messages of a chat request."""

from __future__ import annotations

from typing import Any

import msgspec

from vgate.frontend.apis.anthropic.messages.blocks import (
    Block,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from vgate.frontend.apis.anthropic.messages.request import CountTokensRequest

# Chat messages can't say that a tool failed, so the text does.
ERROR_PREFIX = "Error: "


class _Turn(msgspec.Struct, frozen=True):
    """What one side said until the other did: each block with its path in the request."""

    role: str
    where: str
    blocks: list[tuple[str, Block]]

    def of(self, kind: type[Any]) -> list[tuple[str, Any]]:
        """Return the blocks of a kind."""
        return [(where, block) for where, block in self.blocks if isinstance(block, kind)]


class ChatMessages:
    """The messages, and where in the request each of their parts is from.

    Attributes:
        messages: As a chat request has them.
        places: Paths in the chat request, and the ones in the Messages request they stand for.
    """

    def __init__(self, request: CountTokensRequest) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: dict[str, str] = {}
        for turn in _turns(request):
            if turn.role == "assistant":
                self._add_assistant(turn)
            else:
                self._add_results(turn)
                texts = turn.of(TextBlock)
                if texts or not turn.of(ToolResultBlock):
                    self._add(turn.where, {"role": turn.role, "content": self._content(texts)})

    def _add(self, where: str, message: dict[str, Any]) -> str:
        """Add a message; returns its path."""
        path = f"messages[{len(self.messages)}]"
        self.places[path] = where
        self.messages.append(message)
        return path

    def _add_results(self, turn: _Turn) -> None:
        for where, result in turn.of(ToolResultBlock):
            content = result.content or ""
            if not isinstance(content, str):
                blocks = list(enumerate(content))
                content = self._content([(f"{where}.content[{i}]", b) for i, b in blocks])
            if result.is_error:
                content = _marked_as_error(content)
            path = self._add(
                where, {"role": "tool", "tool_call_id": result.tool_use_id, "content": content}
            )
            self.places[f"{path}.tool_call_id"] = f"{where}.tool_use_id"

    def _add_assistant(self, turn: _Turn) -> None:
        texts, uses, thoughts = turn.of(TextBlock), turn.of(ToolUseBlock), turn.of(ThinkingBlock)
        message: dict[str, Any] = {"role": "assistant"}
        path = self._add(turn.where, message)
        if texts or not (uses or thoughts):
            message["content"] = self._content(texts, path)
        if thoughts:
            message["reasoning_content"] = "\n".join(block.thinking for _, block in thoughts)
        if uses:
            message["tool_calls"] = [
                {
                    "id": use.id,
                    "type": "function",
                    "function": {"name": use.name, "arguments": use.input},
                }
                for _, use in uses
            ]
        for index, (where, _) in enumerate(uses):
            call = f"{path}.tool_calls[{index}]"
            self.places |= {
                call: where,
                f"{call}.function": where,
                f"{call}.function.arguments": f"{where}.input",
            }

    def _content(
        self, texts: list[tuple[str, TextBlock]], path: str | None = None
    ) -> str | list[dict[str, Any]]:
        """Return the content of a message, by default of the next one."""
        path = path or f"messages[{len(self.messages)}]"
        if not texts:
            return ""
        if len(texts) == 1:
            self.places[f"{path}.content"] = texts[0][0]
            return texts[0][1].text
        for index, (where, _) in enumerate(texts):
            self.places[f"{path}.content[{index}]"] = where
        return [{"type": "text", "text": block.text} for _, block in texts]


def _turns(request: CountTokensRequest) -> list[_Turn]:
    """Return the turns: what follows in the same role belongs to the same one."""
    turns: list[_Turn] = []
    said = [(f"messages[{i}]", m.role, m.content) for i, m in enumerate(request.messages)]
    if request.system is not None and request.system:
        system: Any = request.system
        said.insert(0, ("system", "system", system))
    for where, role, content in said:
        inside = where if where == "system" else f"{where}.content"
        blocks: list[tuple[str, Block]] = (
            [(inside, TextBlock(text=content))]
            if isinstance(content, str)
            else [(f"{inside}[{index}]", block) for index, block in enumerate(content)]
        )
        if turns and turns[-1].role == role:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(_Turn(role, where, blocks))
    return turns


def _marked_as_error(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return ERROR_PREFIX + content
    first, *rest = content
    return [{**first, "text": ERROR_PREFIX + first["text"]}, *rest]
