"""The base of output parsers. Pure.

A parser takes text in parts of any size. Its results, joined, depend only on the complete text and
never on the parts, so a stream and a non-streaming response have the same content.
"""

from typing import NamedTuple

from vgate.frontend.parsing.reader import Reader, Steps
from vgate.frontend.tool_calls import ToolCallDelta


class Parsed(NamedTuple):
    """New output that later text can't change; parts of tool calls are in order."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


NOTHING = Parsed()


class OutputParser:
    """Splits the text of one sequence. Call `feed` for each part, then `finish` once, then `close`.

    A subclass reads the whole text in `_run`, as if it were complete.
    """

    def __init__(self) -> None:
        self._reader = Reader()
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[int, str | None, list[str]]] = []
        self._steps = self._run()

    def feed(self, text: str) -> Parsed:
        """Take more text; return the output that is certain now."""
        if not text:
            return NOTHING
        self._reader.push(text)
        next(self._steps, None)
        return self._parsed()

    def finish(self) -> Parsed:
        """Return the output that was held back. The text has ended."""
        self._reader.at_end = True
        next(self._steps, None)
        return self._parsed()

    def close(self) -> None:
        """Break the reference cycle of a parser and its steps, which wait for text."""
        # Closing the steps would not do: Python 3.12 keeps the frame of a generator without a step.
        del self._steps

    def _run(self) -> Steps[None]:
        """Read the text up to its end."""
        raise NotImplementedError

    def _emit_content(self, text: str) -> None:
        if text:
            self._content.append(text)

    def _emit_reasoning(self, text: str) -> None:
        if text:
            self._reasoning.append(text)

    def _add_to_call(self, index: int, name: str | None, arguments: str) -> None:
        if name is None and self._calls and self._calls[-1][0] == index:
            self._calls[-1][2].append(arguments)
        else:
            self._calls.append((index, name, [arguments]))

    def _parsed(self) -> Parsed:
        if not (self._content or self._reasoning or self._calls):
            return NOTHING
        calls = tuple(
            ToolCallDelta(index, None, name, "".join(parts)) for index, name, parts in self._calls
        )
        parsed = Parsed("".join(self._content), "".join(self._reasoning), calls)
        self._content, self._reasoning, self._calls = [], [], []
        return parsed
