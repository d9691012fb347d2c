"""The protocol of output parsers. Pure.

A parser takes text in parts of any size. Its results, joined, depend only on the complete text and
never on the parts, so a stream and a non-streaming response have the same content.
"""

from typing import NamedTuple, Protocol

from vgate.frontend.tool_calls import ToolCallDelta


class Parsed(NamedTuple):
    """New output that later text can't change; parts of tool calls are in order."""

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
