"""Reasoning between think tags, as Qwen3, QwQ and DeepSeek-R1 write it."""

from typing import Literal

from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.reader import NO_MARKERS, Markers, Steps

_BEGIN = "<think>"
_END = "</think>"
ReasoningStart = Literal["inside", "outside", "auto"]


def detect_reasoning(template_source: str) -> bool:
    """Return whether a chat template mentions reasoning between think tags."""
    return _BEGIN in template_source or _END in template_source


def initial_state(rendered_prompt: str) -> ReasoningStart:
    """Return whether the answer to a prompt begins inside reasoning, by the prompt's last tag."""
    prompt = rendered_prompt.rstrip()
    if prompt.endswith(_BEGIN):
        return "inside"
    if prompt.endswith(_END):
        return "outside"
    return "auto"


class ReasoningParser(OutputParser):
    """Splits reasoning from content. Whitespace around the tags is kept.

    Without a closing tag all text after the opening one is reasoning.

    Args:
        start: "inside": the prompt has opened the reasoning, and the text may repeat the tag;
            "outside": there is no reasoning; "auto": the text may begin with the opening tag,
            after optional whitespace, and otherwise has no reasoning.
        implicit_ends: Markers that also end reasoning and are content themselves: a model may
            call a tool without closing its reasoning.

    Attributes:
        in_reasoning: Whether the next text is reasoning, as far as is certain.
    """

    def __init__(self, start: ReasoningStart, implicit_ends: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._start = start
        self._ends = Markers(_END, *implicit_ends)
        self.in_reasoning = start == "inside"

    def _run(self) -> Steps[None]:
        if self._start != "outside":
            yield from self._read_begin()
        if self.in_reasoning:
            end = yield from self._reader.until(self._ends, self._emit_reasoning)
            self.in_reasoning = not end
            if end != _END:
                self._emit_content(end)
        yield from self._reader.until(NO_MARKERS, self._emit_content)

    def _read_begin(self) -> Steps[None]:
        """Skip the opening tag."""
        self._reader.record()
        yield from self._reader.spaces()
        if (yield from self._reader.match(_BEGIN)):
            self._reader.accept()
            self.in_reasoning = True
        elif self.in_reasoning:
            self._emit_reasoning(self._reader.rejected())
        else:
            self._emit_content(self._reader.rejected())
