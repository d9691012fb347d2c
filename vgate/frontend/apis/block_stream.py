"""Streams in which one block is open at a time: reasoning, then text, then tool calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import TokenCounts
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.messages import Logprobs

BlockKind = Literal["reasoning", "text", "tool_call"]


class BlockStream:
    """Keeps track of the open block; a subclass writes its API's events.

    A block stays open until another one begins. Text that comes while a tool call is open waits
    for the end of the call, because more of the call's arguments may follow.

    A subclass implements `_begin_block`, `_end_block` and `_add`, and gives the end of the answer
    with `_last_block` followed by `_end_block`. It implements `text` itself, so that the most
    frequent call needs no other.

    Attributes:
        counts: Set before `begin`; returns the token counts so far.
    """

    __slots__ = ("_called", "_kind", "_waiting", "counts")

    counts: Callable[[], TokenCounts]

    def __init__(self) -> None:
        # Of the open block; None before the first one.
        self._kind: BlockKind | None = None
        self._called = False
        self._waiting: list[str] = []

    def open(self, _index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return nothing: a block begins with its first content."""
        return b""

    def delta(self, _index: int, piece: ChoiceDelta) -> bytes:
        """Return the events of a piece, and those that begin and end blocks."""
        out = []
        if piece.reasoning:
            out.append(self._write("reasoning", piece.reasoning))
        if piece.text:
            out.append(self._write_text(piece.text))
        for part in piece.tool_calls:
            if part.name is not None:
                self._called = True
                out.append(self._release() + self._begin("tool_call", part))
            if part.arguments:
                out.append(self._add(part.arguments))
        return b"".join(out)

    def _last_block(self) -> bytes:
        """Return what is still to come before the last block ends; it is left open.

        An answer without any block gets an empty text: clients expect to find one.
        """
        return self._begin("text") if self._kind is None else self._release()

    def _release(self) -> bytes:
        """Return the text that waited for a call's end, as a block of its own."""
        if not self._waiting:
            return b""
        waited = "".join(self._waiting)
        self._waiting.clear()
        return self._write("text", waited)

    def _write_text(self, text: str) -> bytes:
        """Return text, unless it has to wait for a call's end."""
        if self._kind == "tool_call":
            self._waiting.append(text)
            return b""
        return self._write("text", text)

    def _write(self, kind: BlockKind, text: str) -> bytes:
        """Return text of a kind: for the open block, or else for a new one."""
        begun = b"" if self._kind == kind else self._begin(kind)
        return begun + self._add(text)

    def _begin(self, kind: BlockKind, call: ToolCallDelta | None = None) -> bytes:
        ended = b"" if self._kind is None else self._end_block()
        self._kind = kind
        return ended + self._begin_block(kind, call)

    def _begin_block(self, kind: BlockKind, call: ToolCallDelta | None) -> bytes:
        """Return the events that begin a block; `call` is the first part of a tool call."""
        raise NotImplementedError

    def _end_block(self) -> bytes:
        """Return the events that end the open block."""
        raise NotImplementedError

    def _add(self, text: str) -> bytes:
        """Return the event of more text, or more arguments, of the open block."""
        raise NotImplementedError
