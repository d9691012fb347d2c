"""Reasoning between two marks, as Qwen3, QwQ and DeepSeek-R1 write it."""

from __future__ import annotations

from typing import Literal

from vgate.frontend.parsing.incremental import IncrementalParser, Markers, Steps

ReasoningStart = Literal["inside", "outside", "auto"]

_NONE = Markers()


def initial_state(
    rendered_prompt: str, begin: str = "<think>", end: str = "</think>"
) -> ReasoningStart:
    """Return where an answer to this prompt begins, as its last mark says."""
    prompt = rendered_prompt.rstrip()
    if prompt.endswith(begin):
        return "inside"
    if prompt.endswith(end):
        return "outside"
    return "auto"


class ReasoningParser(IncrementalParser):
    """Splits reasoning from content. Whitespace around the marks stays where it is.

    Args:
        start: "inside": the prompt has begun the reasoning, and the text may repeat that;
            "outside": there is none; "auto": there is if the text begins with `begin`, which
            whitespace may precede.
        begin: What reasoning begins with.
        end: What it ends with; without it all is reasoning.
        implicit_ends: What also ends it, and is content itself: a model may call a tool without
            having ended its reasoning.

    Attributes:
        in_reasoning: Whether the next text is reasoning, as far as is certain.
    """

    def __init__(
        self,
        start: ReasoningStart,
        begin: str = "<think>",
        end: str = "</think>",
        implicit_ends: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._start = start
        self._begin = begin
        self._end = end
        self._ends = Markers(end, *implicit_ends)
        self.in_reasoning = start == "inside"

    def _run(self) -> Steps[None]:
        if self._start != "outside":
            yield from self._read_begin()
        if self.in_reasoning:
            end = yield from self._reader.until(self._ends, self._emit_reasoning)
            self.in_reasoning = not end
            if end != self._end:
                self._emit_content(end)
        yield from self._reader.until(_NONE, self._emit_content)

    def _read_begin(self) -> Steps[None]:
        """Leave out the mark that reasoning begins with."""
        self._reader.record()
        yield from self._reader.spaces()
        if (yield from self._reader.match(self._begin)):
            self._reader.accept()
            self.in_reasoning = True
        elif self.in_reasoning:
            self._emit_reasoning(self._reader.rejected())
        else:
            self._emit_content(self._reader.rejected())
