"""Parsers written as if the whole text were there, and run as it arrives.

A parser is a generator that reads from a `Reader` and yields where it needs more text. It decides
by characters alone, never by where a piece ends, so every way of cutting a text gives the same.
What is unread stays short: whoever must hold text back takes it and keeps it, so the cost of a
text is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from vgate.frontend.parsing.base import NOTHING, Parsed
from vgate.frontend.tool_calls import ToolCallDelta

_Result = TypeVar("_Result")
# A generator that yields when it needs more text.
Steps = Generator[None, None, _Result]
Sink = Callable[[str], object]

_SPACES = re.compile(r"\s*")


class Scan(Protocol):
    """Finds where something ends whose length is not known.

    Attributes:
        ended: Whether the end was found.
        broken: Whether it was found because the text goes on as it can't.
    """

    ended: bool
    broken: bool

    def feed(self, text: str, start: int) -> int:
        """Go on with `text` from `start`; return how far what is looked for reaches in it."""


class Markers:
    """Strings to look for. None may be a part of another, or the cut of a text would matter."""

    __slots__ = ("_any", "_first", "_longest", "texts")

    def __init__(self, *texts: str) -> None:
        assert not any(one in other for one in texts for other in texts if one is not other)
        self.texts = texts
        self._any = re.compile("|".join(map(re.escape, texts)) or "(?!)")
        self._first = re.compile("|".join({re.escape(text[0]) for text in texts}) or "(?!)")
        self._longest = max(map(len, texts), default=0)

    def find(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first marker in `text` from `start`."""
        return self._any.search(text, start)

    def begin_of_last(self, text: str, start: int) -> int:
        """Return where the marker begins that `text` ends with, cut or whole, or its length."""
        for first in self._first.finditer(text, max(start, len(text) - self._longest)):
            if self.may_begin(text[first.start() :]):
                return first.start()
        return len(text)

    def may_begin(self, text: str) -> bool:
        """Whether `text` is the beginning of a marker."""
        return any(marker.startswith(text) for marker in self.texts)


class Reader:
    """What has come of a text and is not yet taken.

    While it records, everything that is taken is kept as well, to be said should it prove to be no
    tool call.

    Attributes:
        unread: Text that waits for more; never much longer than the longest marker.
        at_end: Whether no more will come.
    """

    __slots__ = ("_position", "_record", "_text", "at_end")

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._record: list[str] | None = None
        self.at_end = False

    @property
    def unread(self) -> str:
        """Text that is not taken."""
        return self._text[self._position :]

    def push(self, text: str) -> None:
        """Add text."""
        self._text = self._text[self._position :] + text
        self._position = 0

    def record(self, begun: str = "") -> None:
        """Record what is taken from here on, after `begun`; what is recorded already stays."""
        if self._record is None:
            self._record = [begun]

    def accept(self) -> None:
        """Forget the record: it was markup."""
        self._record = None

    def rejected(self) -> str:
        """Return the record, and end it."""
        record, self._record = self._record or [], None
        return "".join(record)

    def peek(self) -> Steps[str]:
        """Return the next character without taking it; empty at the end."""
        while self._position == len(self._text):
            if self.at_end:
                return ""
            yield
        return self._text[self._position]

    def word(self, pattern: re.Pattern[str], max_chars: int) -> Steps[str]:
        """Take characters for as long as `pattern` matches the next one."""
        word = ""
        while len(word) < max_chars and pattern.match((yield from self.peek())):
            word += self._take(self._position + 1)
        return word

    def spaces(self) -> Steps[None]:
        """Take whitespace."""
        while True:
            match = _SPACES.match(self._text, self._position)
            self._take(match.end() if match else self._position)
            if self._position < len(self._text) or self.at_end:
                return
            yield

    def match(self, literal: str) -> Steps[bool]:
        """Take `literal` if it comes next, or nothing."""
        while True:
            if self._text.startswith(literal, self._position):
                self._take(self._position + len(literal))
                return True
            if self.at_end or not literal.startswith(self.unread):
                return False
            yield

    def match_any(self, markers: Markers) -> Steps[str]:
        """Take the marker that comes next and return it, or nothing."""
        while True:
            for marker in markers.texts:
                if self._text.startswith(marker, self._position):
                    return self._take(self._position + len(marker))
            if self.at_end or not markers.may_begin(self.unread):
                return ""
            yield

    def until(self, markers: Markers, sink: Sink) -> Steps[str]:
        """Take what precedes a marker, and the marker; return it, or nothing at the end.

        The text goes to `sink` as it comes, unless it may be the beginning of a marker.
        """
        while True:
            found = markers.find(self._text, self._position)
            if found:
                self._give(found.start(), sink)
                return self._take(found.end())
            if self.at_end:
                self._give(len(self._text), sink)
                return ""
            self._give(markers.begin_of_last(self._text, self._position), sink)
            yield

    def scan(self, scan: Scan, sink: Sink) -> Steps[bool]:
        """Take what `scan` is looking for the end of, giving it to `sink` as it comes.

        Returns whether it ended, and ended well.
        """
        while True:
            self._give(scan.feed(self._text, self._position), sink)
            if scan.ended or self.at_end:
                return scan.ended and not scan.broken
            yield

    def _take(self, end: int) -> str:
        taken = self._text[self._position : end]
        self._position = end
        if self._record is not None and taken:
            self._record.append(taken)
        return taken

    def _give(self, end: int, sink: Sink) -> None:
        if end > self._position:
            sink(self._take(end))


class IncrementalParser:
    """An output parser whose subclass reads the whole text in `_run`."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[int, str | None, list[str]]] = []
        self._steps = self._run()

    def feed(self, text: str) -> Parsed:
        """Take more text; return what is certain now."""
        if not text:
            return NOTHING
        self._reader.push(text)
        next(self._steps, None)
        return self._parsed()

    def finish(self) -> Parsed:
        """Return what was held back, at the end of the text."""
        self._reader.at_end = True
        next(self._steps, None)
        return self._parsed()

    def _run(self) -> Steps[None]:
        """Read the text up to its end."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        if text:
            self._content.append(text)

    def _think(self, text: str) -> None:
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
