"""What all output parsers share: what they return, and how they are fed. Pure.

A parser is fed text in pieces of any size, and what it returns, put together, depends on the whole
text only and never on where it was cut. That is what makes a stream say the same as a whole answer.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from vgate.frontend.tool_calls import ToolCallDelta


class Parsed(NamedTuple):
    """What a parser is certain of now.

    Attributes:
        content: Text for the client.
        reasoning: Text that the model thought and does not say.
        tool_calls: Parts of tool calls, in order.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


NOTHING = Parsed()


class OutputParser(Protocol):
    """Splits one sequence's text."""

    def feed(self, text: str) -> Parsed:
        """Take more text; return what is certain now."""

    def finish(self) -> Parsed:
        """Return what was held back, at the end of the text."""
