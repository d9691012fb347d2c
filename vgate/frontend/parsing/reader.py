"""Text that is read as if it were complete, by generators that yield when they need more of it.

A `Reader` looks at characters only, never at where a part ends, so what is read does not depend on
how the text was cut. A parser that must hold text back takes it from the reader, so the unread text
stays short and the cost is linear in the length of the text.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from vgate.frontend.parsing.json_text import ValueScan

_Result = TypeVar("_Result")
# A generator that yields when it needs more text.
Steps = Generator[None, None, _Result]
Sink = Callable[[str], object]

_SPACES = re.compile(r"\s*")


class Markers:
    """Strings to search for. None may contain another, or it would matter where a part ends."""

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
        """Return the start of the marker, complete or not, that ends `text`, or its length."""
        for first in self._first.finditer(text, max(start, len(text) - self._longest)):
            end = text[first.start() :]
            if any(marker.startswith(end) for marker in self.texts):
                return first.start()
        return len(text)


NO_MARKERS = Markers()


class Reader:
    """The text that has arrived and was not taken yet.

    While it records, it also keeps the text that is taken, to be emitted as content if it turns
    out not to be a tool call.

    Attributes:
        at_end: Whether the text has ended.
    """

    __slots__ = ("_position", "_record", "_text", "at_end")

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._record: list[str] | None = None
        self.at_end = False

    @property
    def unread(self) -> str:
        """The text that was not taken; never much longer than the longest marker."""
        return self._text[self._position :]

    def push(self, text: str) -> None:
        """Append text."""
        self._text = self._text[self._position :] + text
        self._position = 0

    def record(self, begun: str = "") -> None:
        """Record the text taken from now on, after `begun`, or continue the current record."""
        if self._record is None:
            self._record = [begun]

    def accept(self) -> None:
        """Discard the record: it was markup."""
        self._record = None

    def rejected(self) -> str:
        """Return the record and stop recording."""
        record, self._record = self._record or [], None
        return "".join(record)

    def put_back(self, marker: str) -> None:
        """Make the marker that was just taken the next text again."""
        self._position -= len(marker)
        if self._record:
            self._record.pop()

    def peek(self) -> Steps[str]:
        """Return the next character without taking it; empty at the end."""
        while self._position == len(self._text):
            if self.at_end:
                return ""
            yield
        return self._text[self._position]

    def word(self, pattern: re.Pattern[str], max_chars: int) -> Steps[str]:
        """Take characters while `pattern` matches the next one, at most `max_chars`."""
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

    def match(self, *literals: str) -> Steps[str]:
        """Take the literal that comes next and return it; empty if none does."""
        while True:
            for literal in literals:
                if self._text.startswith(literal, self._position):
                    return self._take(self._position + len(literal))
            if self.at_end or not any(literal.startswith(self.unread) for literal in literals):
                return ""
            yield

    def until(self, markers: Markers, sink: Sink) -> Steps[str]:
        """Take the text before a marker, and the marker; return it, or empty at the end.

        The text goes to `sink` as it arrives, except what may be the beginning of a marker.
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

    def scan(self, scan: ValueScan, sink: Sink) -> Steps[bool]:
        """Pass a value to `sink` as it arrives; return whether it ended and is not broken."""
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
