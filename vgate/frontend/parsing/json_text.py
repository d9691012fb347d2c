"""JSON text as models write it: to and from values, and its end while it arrives."""

import json
import re
from typing import Any

# Half of a UTF-16 pair: a JSON escape can make one, and UTF-8 can't hold it.
_SURROGATE = re.compile("[\ud800-\udfff]")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING_STOPS = {quote: re.compile(rf"[{quote}\\]") for quote in "\"'"}
# Ends a number, true, false or null.
_AFTER_SCALAR = re.compile(r'[\s,:"{}\[\]]')


def to_json(value: Any) -> str:
    """Return JSON text as a model would write it.

    Raises:
        ValueError: JSON can't express the value: infinity, or unbounded nesting.
        TypeError: JSON has no such type.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    return json.dumps(value, allow_nan=False) if _SURROGATE.search(text) else text


def read_string(text: str) -> str | None:
    """Return the string that a JSON text stands for; None if UTF-8 can't hold it."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) and not _SURROGATE.search(value) else None


class BracketScan:
    """Finds the end of a value in brackets or quotes, by its strings, escapes and nesting only.

    The text between matching brackets isn't checked, so a value that ended need not be valid. Each
    character is read once.

    Args:
        structure: Finds the quotes and brackets that matter outside strings.
        closers: The brackets that close those already read.

    Attributes:
        ended: Whether the end was found.
        broken: Whether the value ended because the next character can't belong to it.
    """

    __slots__ = ("_closers", "_escaped", "_quote", "_structure", "broken", "ended")

    def __init__(self, structure: re.Pattern[str], closers: str = "") -> None:
        self._structure = structure
        self._closers = list(closers)
        self._quote = ""
        self._escaped = False
        self.ended = False
        self.broken = False

    def feed(self, text: str, start: int = 0) -> int:
        """Scan `text` from `start`; return the end of the value in it, or the end of the text."""
        at = start
        while at < len(text) and not self.ended:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            stop = (_STRING_STOPS[self._quote] if self._quote else self._structure).search(text, at)
            if stop is None:
                return len(text)
            self._take(stop.group())
            at = stop.start() if self.broken else stop.end()
        return at

    def _take(self, character: str) -> None:
        if character == "\\":
            self._escaped = True
        elif self._quote:
            self._quote = ""
            self.ended = not self._closers
        elif character in _STRING_STOPS:
            self._quote = character
        elif character in _CLOSERS:
            self._closers.append(_CLOSERS[character])
        elif character == self._closers.pop():
            self.ended = not self._closers
        else:
            self.ended = self.broken = True


class JsonScan(BracketScan):
    """Finds the end of one JSON value. A number's end shows only in the character after it."""

    __slots__ = ("_begun", "_in_scalar")

    def __init__(self) -> None:
        super().__init__(_STRUCTURE)
        self._begun = False
        self._in_scalar = False

    def feed(self, text: str, start: int = 0) -> int:
        """Scan `text` from `start`; return the end of the value in it, or the end of the text."""
        if not self._begun and start < len(text):
            self._begun = True
            self._in_scalar = _AFTER_SCALAR.match(text, start) is None
            self.ended = self.broken = not self._in_scalar and text[start] not in '"{['
        if not self._in_scalar:
            return super().feed(text, start)
        stop = _AFTER_SCALAR.search(text, start)
        self.ended = stop is not None
        return stop.start() if stop else len(text)
