"""JSON text as models write it: to and from values, and where a value ends while it arrives."""

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


def is_json_object(text: str) -> bool:
    """Return whether a text is a complete JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class ValueScan:
    """Finds the end of one value, by its strings, escapes and nesting only.

    The text between matching brackets isn't checked, so a value that ended need not be valid. A
    number's end shows only in the character after it. Each character is read once.

    Args:
        structure: Finds the quotes and brackets that matter outside strings; JSON's if not given.
        closers: Closes the brackets that were read already.

    Attributes:
        ended: Whether the end was found.
        broken: Whether the value ended because the next character can't belong to it.
    """

    __slots__ = ("_begun", "_closers", "_escaped", "_stops", "_structure", "broken", "ended")

    def __init__(self, structure: re.Pattern[str] = _STRUCTURE, closers: str = "") -> None:
        self._structure = structure
        # Finds the next character that matters: outside strings, in one, or after a number.
        self._stops = structure
        self._closers = list(closers)
        self._begun = bool(closers)
        self._escaped = False
        self.ended = False
        self.broken = False

    def feed(self, text: str, start: int = 0) -> int:
        """Scan `text` from `start`; return the end of the value in it, or the end of the text."""
        at = start
        if not self._begun and at < len(text):
            self._begin(text[at])
        while at < len(text) and not self.ended:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            stop = self._stops.search(text, at)
            if stop is None:
                return len(text)
            if not self._take(stop.group()):
                return stop.start()
            at = stop.end()
        return at

    def _begin(self, first: str) -> None:
        self._begun = True
        if not _AFTER_SCALAR.match(first):
            self._stops = _AFTER_SCALAR
        elif first not in '"{[':
            self.ended = self.broken = True

    def _take(self, character: str) -> bool:
        """Note a character that matters; return whether it belongs to the value."""
        if character == "\\":
            self._escaped = True
        elif self._stops is _AFTER_SCALAR:
            self.ended = True
            return False
        elif self._stops is not self._structure:
            self._stops = self._structure
            self.ended = not self._closers
        elif character in _STRING_STOPS:
            self._stops = _STRING_STOPS[character]
        elif character in _CLOSERS:
            self._closers.append(_CLOSERS[character])
        elif character == self._closers.pop():
            self.ended = not self._closers
        else:
            self.ended = self.broken = True
            return False
        return True
