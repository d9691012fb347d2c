"""Reasoning between two tags, as Qwen3, QwQ and DeepSeek-R1 write it."""

from typing import Literal

from vgate.frontend.parsing.incremental import NO_MARKERS, IncrementalParser, Markers, Steps

ReasoningStart = Literal["inside", "outside", "auto"]


def initial_state(
    rendered_prompt: str, begin: str = "<think>", end: str = "</think>"
) -> ReasoningStart:
    """Return whether the answer to a prompt begins inside reasoning, by the prompt's last tag."""
    prompt = rendered_prompt.rstrip()
    if prompt.endswith(begin):
        return "inside"
    if prompt.endswith(end):
        return "outside"
    return "auto"


class ReasoningParser(IncrementalParser):
    """Splits reasoning from content. Whitespace around the tags is kept.

    Args:
        start: "inside": the prompt has opened the reasoning, and the text may repeat the tag;
            "outside": there is no reasoning; "auto": the text may begin with `begin`, after
            optional whitespace, and otherwise has no reasoning.
        begin: The opening tag.
        end: The closing tag; without it all text is reasoning.
        implicit_ends: Markers that also end reasoning and are content themselves: a model may
            call a tool without closing its reasoning.

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
        yield from self._reader.until(NO_MARKERS, self._emit_content)

    def _read_begin(self) -> Steps[None]:
        """Skip the opening tag."""
        self._reader.record()
        yield from self._reader.spaces()
        if (yield from self._reader.match(self._begin)):
            self._reader.accept()
            self.in_reasoning = True
        elif self.in_reasoning:
            self._emit_reasoning(self._reader.rejected())
        else:
            self._emit_content(self._reader.rejected())
