"""What the tool parsers share: finding calls in content, and telling them."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from vgate.frontend.ids import tool_call_id
from vgate.frontend.parsing.base import Parsed
from vgate.frontend.parsing.incremental import IncrementalParser, Markers, Steps

_NAME = re.compile(r"[\w.:/-]")
_MAX_NAME_CHARS = 256


class ToolParser(IncrementalParser):
    """Finds tool calls between content.

    What is not a call is content, word for word. A call begins, and is told to the client, when
    its name and the beginning of its arguments are there; what it said can't be taken back:

    - Text that ends in the middle of a call leaves the call with what came of its arguments.
    - From the first character on that can't belong to a call that has begun, the text is content
      (and is searched for calls), and the call keeps what it has.
    - Arguments are passed on as the model wrote them. They end where their JSON does; what is
      between matching brackets isn't checked.

    A call whose text breaks before it has begun is content from its marker on, and calls are looked
    for again where it broke. Whitespace that stands alone before a call, between calls or after the
    last one is left out.

    Args:
        tools: OpenAI's `function` objects.
        first_call_only: Leave out all calls but the first.

    Attributes:
        called: Whether a call has begun.
        needs_special_tokens: Whether markers are special tokens, which the text must then show.
        markers: What a call begins with.
        ends_of_turn: Special tokens that end an answer, left out at the end of the text.
        new_call_id: Returns a new id for a call, such as the model's chat template takes.
    """

    needs_special_tokens: ClassVar[bool] = False
    markers: ClassVar[tuple[str, ...]] = ()
    ends_of_turn: ClassVar[tuple[str, ...]] = ()
    new_call_id = staticmethod(tool_call_id)

    @staticmethod
    def fits(_template: str) -> bool:
        """Whether a chat template shows that its model writes calls in this format."""
        return False

    def __init__(self, tools: list[dict[str, Any]], *, first_call_only: bool = False) -> None:
        super().__init__()
        self._tools = {tool.get("name"): tool for tool in tools}
        self._first_call_only = first_call_only
        self._markers = Markers(*self.markers)
        self._ends_of_turn = Markers(*self.ends_of_turn)
        self._ending = ""
        self._begun = 0

    @property
    def called(self) -> bool:
        """Whether a call has begun."""
        return self._begun > 0

    def feed(self, text: str) -> Parsed:
        """Take more text; return what is certain now."""
        if self.ends_of_turn:
            text = self._ending + text
            size = self._ends_of_turn.begin_of_last(text, 0)
            text, self._ending = text[:size], text[size:]
        return super().feed(text)

    def finish(self) -> Parsed:
        """Return what was held back, at the end of the text."""
        if self._ending not in self.ends_of_turn:
            self._reader.push(self._ending)
        return super().finish()

    def _run(self) -> Steps[None]:
        clean = yield from self._read_opening()
        while True:
            if not clean:
                self._say(self._reader.rejected())
            marker = yield from self._next_marker(self._markers, clean=clean)
            if not marker:
                return
            clean = yield from self._read_calls(marker)

    def _read_opening(self) -> Steps[bool]:
        """Read calls that need no marker because the text begins with them.

        Returns as `_read_calls` does.
        """
        yield from ()
        return True

    def _read_calls(self, marker: str) -> Steps[bool]:
        """Read the calls after a marker, with the record running.

        Returns whether there were any. If not, the record is said. If so, whitespace that may be
        the separator before the next one can be left in it.
        """
        raise NotImplementedError

    def _next_marker(self, markers: Markers, *, clean: bool) -> Steps[str]:
        """Say content up to a marker; return it with the record running, or nothing at the end.

        Args:
            markers: What to look for.
            clean: Whether whitespace that comes next is no content if a marker or the end follows.
        """
        reader = self._reader
        marker = ""
        if clean:
            reader.record()
            yield from reader.spaces()
            marker = yield from reader.match_any(markers)
            if not marker:
                space = reader.rejected()
                if (yield from reader.peek()) or space.strip() or not self.called:
                    self._say(space)
        if not marker:
            marker = yield from reader.until(markers, self._say)
            if marker:
                reader.record(marker)
        return marker

    def _skip_marker(self, markers: Markers) -> Steps[str]:
        """Take whitespace and a marker, or else leave the whitespace recorded."""
        self._reader.record()
        yield from self._reader.spaces()
        marker = yield from self._reader.match_any(markers)
        if marker:
            self._reader.accept()
        return marker

    def _read_name(self) -> Steps[str]:
        """Take a tool's name; empty if none comes next."""
        return (yield from self._reader.word(_NAME, _MAX_NAME_CHARS))

    def _begin_call(self, name: str) -> None:
        """Tell a call's name; what was recorded was its markup."""
        self._reader.accept()
        self._begun += 1
        self._tell(name, "")

    def _argue(self, text: str) -> None:
        """Tell more of the arguments of the call that has begun."""
        if text:
            self._tell(None, text)

    def _tell(self, name: str | None, arguments: str) -> None:
        index = self._begun - 1
        if index == 0 or not self._first_call_only:
            self._add_to_call(index, name, arguments)

    def _knows(self, name: str) -> bool:
        """Whether a call of this tool is a call; any name is where a marker leaves no doubt."""
        return True
