"""The content blocks of Messages requests."""

from __future__ import annotations

from typing import Any

import msgspec


class _Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What is common to blocks.

    `cache_control` has no effect: the engine's prefix cache needs no marks.
    """

    cache_control: dict[str, Any] | None = None


class TextBlock(_Block, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Text."""

    text: str
    citations: list[Any] | None = None


class ToolUseBlock(_Block, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_use"):
    """A call that the assistant made."""

    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None


class ToolResultBlock(
    _Block, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_result"
):
    """What came of a call."""

    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class ThinkingBlock(_Block, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="thinking"):
    """What the assistant thought. The signature is not looked at."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(
    _Block, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="redacted_thinking"
):
    """What another server's assistant thought, encrypted: nobody else can read it."""

    data: str


Block = TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock

# The blocks that a role may have.
BLOCKS_OF: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "system": (TextBlock,),
    "user": (TextBlock, ToolResultBlock),
    "assistant": (TextBlock, ToolUseBlock, ThinkingBlock, RedactedThinkingBlock),
}


def block_type(block: type[msgspec.Struct] | msgspec.Struct) -> str:
    """Return the ``type`` of a block."""
    tag = block.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
