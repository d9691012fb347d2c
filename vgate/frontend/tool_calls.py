"""The type of tool calls that parsers, answers and APIs share."""

from collections.abc import Iterable

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


def merged(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """Return deltas with those of one call that follow each other as one."""
    parts: list[tuple[ToolCallDelta, list[str]]] = []
    for delta in deltas:
        if delta.name is None and parts and parts[-1][0].index == delta.index:
            parts[-1][1].append(delta.arguments)
        else:
            parts.append((delta, [delta.arguments]))
    return tuple(
        first if len(texts) == 1 else msgspec.structs.replace(first, arguments="".join(texts))
        for first, texts in parts
    )
