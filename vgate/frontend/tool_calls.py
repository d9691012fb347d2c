"""The type of tool calls that parsers, answers and APIs share."""

import msgspec


class ToolCallDelta(msgspec.Struct, frozen=True):
    """The next part of a tool call.

    Attributes:
        index: The call's number in the answer, from 0.
        id, name: The call's id and the tool, in the first part only. A parser leaves the id out;
            the answer sets it.
        arguments: The next part of the arguments' JSON text; may be empty.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
