"""Streams in which one block is open at a time, of reasoning, text or a tool call."""

from collections.abc import Callable
from typing import ClassVar, Literal

from vgate.frontend.answers import KEEP_ALIVE_COMMENT, ChoiceDelta, FinishReason, TokenCounts
from vgate.frontend.tool_calls import ToolCallDelta
from vgate.wire.logprobs import Logprobs

BlockKind = Literal["reasoning", "text", "tool_call"]


class BlockStream:
    """Keeps track of the open block; a subclass encodes its API's events.

    A block stays open until another one begins. Text that arrives while a tool call is open is held
    back until the call ends, because more of the call's arguments may follow.

    A subclass implements `_begin_block`, `_end_block`, `_add` and `_finish`, which ends the answer
    with `_last_block` and then `_end_block`. To save a call for each token it implements `text`.
    """

    __slots__ = ("_called", "_kind", "_waiting", "counts")

    counts: Callable[[], TokenCounts]
    keep_alive: ClassVar[bytes] = KEEP_ALIVE_COMMENT

    def __init__(self) -> None:
        self._kind: BlockKind | None = None  # of the open block
        self._called = False
        self._waiting: list[str] = []

    def open(self, _index: int, _prompt_logprobs: list[Logprobs | None] | None) -> bytes:
        """Return nothing: a block begins with its first content."""
        return b""

    def delta(self, _index: int, piece: ChoiceDelta) -> bytes:
        """Return the events of a delta, with those that begin and end blocks."""
        out = self._write("reasoning", piece.reasoning) if piece.reasoning else b""
        if piece.text:
            out += self._write_text(piece.text)
        for part in piece.tool_calls:
            if part.name is not None:
                self._called = True
                out += self._release() + self._begin("tool_call", part)
            if part.arguments:
                out += self._add(part.arguments)
        return out

    def finish(
        self,
        index: int,
        finish_reason: FinishReason,
        stop_reason: int | str | None,
        last: ChoiceDelta | None = None,
    ) -> bytes:
        """Return the events of the last output and of the end."""
        out = b"" if last is None else self.delta(index, last)
        return out + self._finish(finish_reason, stop_reason)

    def _finish(self, finish_reason: FinishReason, stop_reason: int | str | None) -> bytes:
        """Return the end of the last block, and what tells why the answer ended."""
        raise NotImplementedError

    def _last_block(self) -> bytes:
        """Return the events before the end of the last block.

        An answer without a block gets an empty text block, because clients expect one.
        """
        return self._begin("text") if self._kind is None else self._release()

    def _release(self) -> bytes:
        """Return the text that was held back, as a block of its own."""
        text = "".join(self._waiting)
        self._waiting.clear()
        return self._write("text", text) if text else b""

    def _write_text(self, text: str) -> bytes:
        """Return the events of text; none while a tool call is open."""
        if self._kind == "tool_call":
            self._waiting.append(text)
            return b""
        return self._write("text", text)

    def _write(self, kind: BlockKind, text: str) -> bytes:
        """Return the events of text or reasoning, with those of a new block if it needs one."""
        begin = b"" if self._kind == kind else self._begin(kind)
        return begin + self._add(text)

    def _begin(self, kind: BlockKind, call: ToolCallDelta | None = None) -> bytes:
        end = b"" if self._kind is None else self._end_block()
        self._kind = kind
        return end + self._begin_block(kind, call)

    def _begin_block(self, kind: BlockKind, call: ToolCallDelta | None) -> bytes:
        """Return the events that begin a block; `call` is the first part of a tool call."""
        raise NotImplementedError

    def _end_block(self) -> bytes:
        raise NotImplementedError

    def _add(self, text: str) -> bytes:
        """Return the event of more text or arguments in the open block."""
        raise NotImplementedError
