"""The base of the tool parsers: finds calls in content and emits their parts."""

import re
from typing import Any, ClassVar

from vgate.frontend.ids import tool_call_id
from vgate.frontend.parsing.base import OutputParser, Parsed
from vgate.frontend.parsing.reader import Markers, Steps

_NAME = re.compile(r"[\w.:/-]")
_MAX_NAME_CHARS = 256


class ToolParser(OutputParser):
    """Finds tool calls between content.

    Text that is not part of a call is content, unchanged. A call begins, and is emitted, once its
    name and the beginning of its arguments were read. What was emitted can't be taken back:

    - If the text ends inside a call, the call keeps the arguments that were read.
    - From the first character that can't belong to a call that has begun, the text is content
      again (and is searched for calls), and the call keeps what it has.
    - Arguments are passed on as the model wrote them. They end where their JSON does; the text
      between matching brackets isn't checked.

    A call that breaks before it has begun is content from its marker on, and the search for calls
    resumes where it broke. Whitespace that stands alone before, between or after calls is dropped.

    Args:
        tools: OpenAI's `function` objects.
        first_call_only: Leave out all calls but the first.

    Attributes:
        needs_special_tokens: Whether markers are special tokens, so that the text must show them.
        template_signs: Regular expressions found in chat templates of models with this format.
        markers: The strings that a call begins with.
        ends_of_turn: Special tokens that end an answer; dropped at the end of the text.
        new_call_id: Returns a new id for a call, in the format that the model's template accepts.
    """

    needs_special_tokens: ClassVar[bool] = False
    template_signs: ClassVar[tuple[str, ...]]
    markers: ClassVar[tuple[str, ...]] = ()
    ends_of_turn: ClassVar[tuple[str, ...]] = ()
    new_call_id = staticmethod(tool_call_id)

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
        """Take more text; return the output that is certain by now."""
        if self.ends_of_turn:
            text = self._ending + text
            size = self._ends_of_turn.begin_of_last(text, 0)
            text, self._ending = text[:size], text[size:]
        return super().feed(text)

    def finish(self) -> Parsed:
        """Return the output that was held back. The text has ended."""
        if self._ending not in self.ends_of_turn:
            self._reader.push(self._ending)
        return super().finish()

    def _run(self) -> Steps[None]:
        clean = yield from self._read_opening()
        while True:
            if not clean:
                self._emit_content(self._reader.rejected())
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

        Returns whether there were any. If not, the record is emitted as content. If so, whitespace
        that may separate them from the next call can be left in the record.
        """
        raise NotImplementedError

    def _next_marker(self, markers: Markers, *, clean: bool) -> Steps[str]:
        """Emit content up to a marker; return it with the record running, or empty at the end.

        Args:
            markers: The markers to search for.
            clean: Whether whitespace that comes next is dropped if a marker or the end follows.
        """
        reader = self._reader
        marker = ""
        if clean:
            reader.record()
            yield from reader.spaces()
            marker = yield from reader.match(*markers.texts)
            if not marker:
                space = reader.rejected()
                if (yield from reader.peek()) or space.strip() or not self.called:
                    self._emit_content(space)
        if not marker:
            marker = yield from reader.until(markers, self._emit_content)
            if marker:
                reader.record(marker)
        return marker

    def _skip(self, *markers: str) -> Steps[str]:
        """Take whitespace and a marker; without a marker leave the whitespace recorded."""
        self._reader.record()
        yield from self._reader.spaces()
        marker = yield from self._reader.match(*markers)
        if marker:
            self._reader.accept()
        return marker

    def _read_name(self) -> Steps[str]:
        """Take a tool's name; return empty if none comes next."""
        return (yield from self._reader.word(_NAME, _MAX_NAME_CHARS))

    def _begin_call(self, name: str) -> None:
        """Emit a call's name; the record was its markup."""
        self._reader.accept()
        self._begun += 1
        self._emit_call(name, "")

    def _emit_arguments(self, text: str) -> None:
        """Emit more arguments of the call that has begun."""
        if text:
            self._emit_call(None, text)

    def _emit_call(self, name: str | None, arguments: str) -> None:
        index = self._begun - 1
        if index == 0 or not self._first_call_only:
            self._add_to_call(index, name, arguments)
