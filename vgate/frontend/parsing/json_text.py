"""JSON text as models write it: to and from values, and its end while it arrives."""

import json
import re
from typing import Any

# Half of a UTF-16 pair: a JSON escape can make one, and UTF-8 can't hold it.
_SURROGATE = re.compile("[\ud800-\udfff]")
_CLOSERS = {"{": "}", "[": "]"}
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING_STOP = re.compile(r'["\\]')
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


class JsonScan:
    """A `Scan` for the end of one JSON value, by its strings, escapes and nesting only.

    The text between matching brackets isn't checked, so a value that ended need not be valid JSON.
    A number's end shows only in the character after it. Each character is read once.
    """

    __slots__ = ("_begun", "_closers", "_escaped", "_in_scalar", "_in_string", "broken", "ended")

    def __init__(self) -> None:
        self._begun = False
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False
        self._in_scalar = False
        self.ended = False
        self.broken = False

    def feed(self, text: str, start: int = 0) -> int:
        """Scan `text` from `start`; return the end of the value in it, or the end of the text."""
        at = start
        while at < len(text) and not self.ended:
            if self._in_string:
                at = self._in_string_from(text, at)
            elif self._in_scalar:
                at = self._in_scalar_from(text, at)
            elif self._begun:
                at = self._in_container_from(text, at)
            else:
                at = self._begin(text, at)
        return at

    def _begin(self, text: str, at: int) -> int:
        self._begun = True
        if text[at] in '"{[':
            return self._in_container_from(text, at)
        if _AFTER_SCALAR.match(text, at):
            self.ended = self.broken = True
            return at
        self._in_scalar = True
        return at + 1

    def _in_scalar_from(self, text: str, at: int) -> int:
        stop = _AFTER_SCALAR.search(text, at)
        self.ended = stop is not None
        return stop.start() if stop else len(text)

    def _in_string_from(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        stop = _STRING_STOP.search(text, at)
        if stop is None:
            return len(text)
        if stop.group() == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.ended = not self._closers
        return stop.end()

    def _in_container_from(self, text: str, at: int) -> int:
        stop = _STRUCTURE.search(text, at)
        if stop is None:
            return len(text)
        character = stop.group()
        if character == '"':
            self._in_string = True
        elif character in _CLOSERS:
            self._closers.append(_CLOSERS[character])
        elif character == self._closers[-1]:
            self._closers.pop()
            self.ended = not self._closers
        else:
            self.ended = self.broken = True
            return stop.start()
        return stop.end()
