"""The protocol of output parsers. Pure.

A parser takes text in parts of any size. Its results, joined, depend on the whole text only and
never on where it was cut, so a stream and a non-streaming response have the same content.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A part of a tool call.

    Attributes:
        index: Which of the answer's calls, from 0.
        name: The tool, in the first part of the call only.
        arguments: The next part of the arguments' JSON text; may be empty.
    """

    index: int
    name: str | None
    arguments: str


class Parsed(NamedTuple):
    """New output that later text can't change.

    Attributes:
        content: Text of the answer.
        reasoning: Text of the model's reasoning.
        tool_calls: Parts of tool calls, in order.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


NOTHING = Parsed()


class OutputParser(Protocol):
    """Splits the text of one sequence. Call `feed` for each part, then `finish` once."""

    def feed(self, text: str) -> Parsed:
        """Take more text; return the output that is certain by now."""

    def finish(self) -> Parsed:
        """Return the output that was held back. The text has ended."""
