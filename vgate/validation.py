"""Turns msgspec's validation errors into a path, a value and what is allowed.

The configuration and the APIs' requests share it, so they explain a mistake in the same way.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[(\.\.\.)\]")
_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`")
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?P<rest>.*?)(?:, got `[^`]*`)?$")
_MAX_VALUE_CHARS = 80

_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}

# What may stand beside texts that are allowed.
_OTHERS: dict[Any, str] = {int: "an integer", float: "a number", list: "a list"}


class Problem(msgspec.Struct, frozen=True):
    """A problem that was found in a document.

    Attributes:
        path: The field, such as ``messages[0].role``; empty for the document itself.
        expected: What is allowed, if `kind` is "value".
        sent: The offending value as JSON, shortened; None if there is none or it isn't known.
        choices: The texts that are allowed, or the names of fields where one is unknown; empty if
            they are not known.
    """

    path: str
    kind: Literal["unknown", "missing", "value"]
    expected: str = ""
    sent: str | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"`{self.path}`" if self.path else "the document"
        if self.kind == "unknown":
            return f"{name} is not a known field"
        if self.kind == "missing":
            return f"{name} is required"
        got = f", got {self.sent}" if self.sent is not None else ""
        return f"{name} must be {self.expected}{got}"


def explain(error: msgspec.ValidationError, document: Any = None, of: Any = None) -> Problem:
    """Explain an error of a conversion.

    Values are shown if `document` is what was converted, and the texts that are allowed if `of` is
    the type that it was converted to.
    """
    match = _AT.match(str(error))
    assert match is not None  # the pattern matches any text
    what, path = match["what"], (match["path"] or "").removeprefix(".")
    if field := _FIELD.match(what):
        path = f"{path}.{field['name']}" if path else field["name"]
        return Problem(path, "missing" if field["kind"].startswith("missing") else "unknown")
    if match["key"]:
        expected = f"an object whose keys are each {_expected(what)}"
        return Problem(path, "value", expected, _sent_key(document, path))
    choices: tuple[str, ...] = ()
    expected = _expected(what)
    # A text that isn't allowed, or no text where some are, such as YAML's `off`.
    if of is not None and what.startswith(("Invalid enum value", "Expected `str")):
        kinds = _kinds_at(of, path)
        choices = tuple(_choices(kinds))
        named = {_other(kind) for kind in kinds}
        others = [name for name in (*_OTHERS.values(), "an object") if name in named]
        expected = " or ".join([*others, *map(repr, choices)]) if choices else expected
    return Problem(path, "value", expected, _sent(document, path), choices)


def problems(document: Any, of: Any, path: str = "") -> list[Problem]:
    """Return what is wrong with each part of a document; a conversion tells only the first.

    `path` is where the document itself is found, for those of its problems.
    """
    found: list[Problem] = []
    for kind in _kinds(of):
        if isinstance(document, list) and get_origin(kind) is list:
            for index, item in enumerate(document):
                found += problems(item, get_args(kind)[0], f"{path}[{index}]")
        elif isinstance(document, dict) and get_origin(kind) is dict:
            for key, item in document.items():
                found += problems(item, get_args(kind)[1], f"{path}.{key}" if path else str(key))
        elif isinstance(document, dict) and _is_struct(kind):
            found += _struct_problems(document, kind, path)
    if not found:
        try:
            msgspec.convert(document, of)
        except msgspec.ValidationError as error:
            problem = explain(error, document, of)
            joint = "." if path and problem.path and problem.path[0] != "[" else ""
            found = [msgspec.structs.replace(problem, path=f"{path}{joint}{problem.path}")]
    return found


def _struct_problems(document: dict[Any, Any], of: Any, path: str) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in _fields_of(of)}
    for key in [*document, *(name for name in fields if name not in document)]:
        where, field = f"{path}.{key}" if path else str(key), fields.get(key)
        if field is None:
            if of.__struct_config__.forbid_unknown_fields:
                yield Problem(where, "unknown", choices=tuple(fields))
        elif key in document:
            yield from problems(document[key], field.type, where)
        elif field.required:
            yield Problem(where, "missing")


def _kinds(of: Any) -> Iterator[Any]:
    """Yield a type without its bounds, or each type of a union."""
    if get_origin(of) is Annotated:
        yield from _kinds(get_args(of)[0])
    elif get_origin(of) in {Union, UnionType}:
        for kind in get_args(of):
            yield from _kinds(kind)
    else:
        yield of


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _kinds_at(of: Any, path: str) -> list[Any]:
    """Return the types that a type allows at a path, without looking at others of its fields."""
    kinds = [*_kinds(of)]
    for name, _index, _any in _STEP.findall(f".{path}"):
        if name:
            fields = [f for kind in kinds if _is_struct(kind) for f in _fields_of(kind)]
            inner = [field.type for field in fields if field.encode_name == name]
        else:
            inner = [get_args(kind)[0] for kind in kinds if get_origin(kind) is list]
        kinds = [kind for each in inner for kind in _kinds(each)]
    return kinds


# Types are evaluated from their texts each time. There are as many structs as the code has.
_fields_of = cache(msgspec.structs.fields)


def _choices(kinds: list[Any]) -> list[str]:
    """Return the texts that are allowed, in order."""
    literals = (kind for kind in kinds if get_origin(kind) is Literal)
    return [value for kind in literals for value in sorted(map(str, get_args(kind)))]


def _other(kind: Any) -> str | None:
    """Return the words for a type that may stand beside texts that are allowed."""
    if _is_struct(kind):
        return "an object"
    return _OTHERS.get(get_origin(kind) or kind)


def _sent_key(document: Any, path: str) -> str | None:
    """Return the key that is no number, where only numbers are keys."""
    with suppress(LookupError, AttributeError, TypeError):
        keys = (key for key in value_at(document, path) if not key.isdecimal())
        return next((_shortened(key) for key in keys), None)
    return None


def _expected(what: str) -> str:
    if "datetime" in what:
        return "a time with its zone, such as 2027-01-31T00:00:00Z"
    match = _EXPECTED.match(what)
    if match is None:
        # Such as "Invalid enum value 'x'", in msgspec's own words.
        return f"valid ({what[:1].lower()}{what[1:]})"
    names = [_NAMES.get(t.strip(), t.strip()) for t in match["types"].split("|")]
    return f"{' or '.join(names)} {match['rest'].strip()}".rstrip()


def value_at(document: Any, path: str) -> Any:
    """Return the value at a `Problem.path` of a document of builtin types.

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
    if document is None:
        return None
    try:
        return _shortened(value_at(document, path))
    except (LookupError, RecursionError, UnicodeEncodeError):
        return None


def _shortened(value: Any) -> str:
    text = msgspec.json.encode(_start(value), enc_hook=str).decode(errors="replace")
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def _start(value: Any) -> Any:
    """Return a value without what would not be shown of it."""
    if isinstance(value, str | bytes):
        return value[: _MAX_VALUE_CHARS + 1]
    if isinstance(value, list):
        return [_start(item) for item in value[:_MAX_VALUE_CHARS]]
    if isinstance(value, dict):
        shown = islice(value.items(), _MAX_VALUE_CHARS)
        return {_start(key): _start(item) for key, item in shown}
    return value
