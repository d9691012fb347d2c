"""Tool calls as they come: the one type that parsers, answers and APIs share."""

from __future__ import annotations

import msgspec


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A part of a tool call.

    Attributes:
        index: Which of the answer's calls, from 0.
        id, name: The call's id and the tool, in the first part of the call only. A parser leaves
            the id out, the answer gives one.
        arguments: The next part of the arguments' JSON text; may be empty.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
