"""Reasoning first, then tool calls in what is left."""

from __future__ import annotations

from vgate.frontend.parsing.base import OutputParser, Parsed
from vgate.frontend.parsing.reasoning import ReasoningParser


class Chain:
    """An output parser made of two, either of which may be missing."""

    __slots__ = ("_reasoning", "_tools")

    def __init__(self, reasoning: ReasoningParser | None, tools: OutputParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    @property
    def called(self) -> bool:
        """Whether a tool was called."""
        return bool(getattr(self._tools, "called", False))

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text is reasoning, where stop strings don't count."""
        return self._reasoning is not None and self._reasoning.in_reasoning

    def feed(self, text: str) -> Parsed:
        """Take more text; return what is certain now."""
        parsed = self._reasoning.feed(text) if self._reasoning else Parsed(text)
        return self._with_tools(parsed)

    def finish(self) -> Parsed:
        """Return what was held back, at the end of the text."""
        parsed = self._reasoning.finish() if self._reasoning else Parsed()
        parsed = self._with_tools(parsed)
        if self._tools is None:
            return parsed
        rest = self._tools.finish()
        return Parsed(
            parsed.content + rest.content, parsed.reasoning, parsed.tool_calls + rest.tool_calls
        )

    def _with_tools(self, parsed: Parsed) -> Parsed:
        if self._tools is None or not parsed.content:
            return parsed
        rest = self._tools.feed(parsed.content)
        return Parsed(rest.content, parsed.reasoning, rest.tool_calls)
