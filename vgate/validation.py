"""Turns msgspec's validation errors into a path, a value and what is allowed.

Shared by the configuration and by the API's requests, so that both explain a mistake alike.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[(\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?P<rest>.*?)(?:, got `(?P<got>[^`]*)`)?$")
_SHOWN_VALUE_CHARS = 80

_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


class Problem(msgspec.Struct, frozen=True):
    """The first thing found wrong with a document.

    Attributes:
        path: Dotted path of the field, ``messages[0].role``; empty for the document itself.
        kind: ``unknown`` field, ``missing`` field or bad ``value``.
        expected: What is allowed, in words.
        sent: The offending value as JSON, shortened; None if there is none or it isn't known.
    """

    path: str
    kind: str
    expected: str
    sent: str | None = None

    def __str__(self) -> str:
        """Say it in one sentence."""
        name = f"`{self.path}`" if self.path else "the document"
        if self.kind == "unknown":
            return f"{name} is not a known field"
        if self.kind == "missing":
            return f"{name} is required"
        got = f", got {self.sent}" if self.sent is not None else ""
        return f"{name} must be {self.expected}{got}"


def explain(error: msgspec.ValidationError, document: Any = None) -> Problem:
    """Explain a validation error.

    Args:
        error: What msgspec raised.
        document: The builtin-typed document that was being converted; used to show the value.
    """
    match = _AT.match(str(error))
    assert match is not None  # the pattern matches any text
    what, path = match["what"], (match["path"] or "").removeprefix(".")
    if unknown := _UNKNOWN.match(what):
        return Problem(_join(path, unknown["name"]), "unknown", "")
    if missing := _MISSING.match(what):
        return Problem(_join(path, missing["name"]), "missing", "")
    if match["key"]:
        return Problem(path, "value", f"an object whose keys are each {_expected(what)}")
    return Problem(path, "value", _expected(what), _sent(document, path))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _expected(what: str) -> str:
    match = _EXPECTED.match(what)
    if match is None:
        # "Invalid enum value 'x'" and the like: msgspec's own words, lower case, say it.
        return f"valid ({what[:1].lower()}{what[1:]})"
    names = [_NAMES.get(t.strip(), t.strip()) for t in match["types"].split("|")]
    rest = match["rest"].strip()
    return " or ".join(names) + (f" {rest}" if rest else "")


def value_at(document: Any, path: str) -> Any:
    """Return the value at a path, such as `Problem` has, of a builtin-typed document.

    Raises:
        LookupError: There is none.
    """
    value = document
    for name, index, _any in _STEP.findall(f".{path}" if path else ""):
        try:
            value = value[int(index)] if index else value[name]
        except TypeError:
            raise LookupError(path) from None
    return value


def _sent(document: Any, path: str) -> str | None:
    try:
        value = value_at(document, path)
    except LookupError:
        return None
    if document is None:
        return None
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode(errors="replace")
    except (RecursionError, UnicodeEncodeError):
        return None
    return text if len(text) <= _SHOWN_VALUE_CHARS else f"{text[:_SHOWN_VALUE_CHARS]}..."
