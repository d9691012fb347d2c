"""Reads values that a model wrote as plain text, by the types in the tool's JSON schema."""

import json
import math
from collections.abc import Callable
from typing import Any

# Other names that tool authors use for JSON schema's types.
_ALIASES = {
    alias: kind
    for kind, aliases in (
        ("string", "str text varchar char enum"),
        ("integer", "int int32 int64 uint uint32 uint64 long short unsigned"),
        ("number", "float float32 float64 double"),
        ("boolean", "bool"),
        ("object", "dict"),
        ("array", "arr list sequence"),
    )
    for alias in aliases.split()
}
_TYPE_OF = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def types_of(schema: Any) -> set[str]:
    """Return the types that a value may have; {"string"} if the schema names none."""
    if not isinstance(schema, dict):
        return {"string"}
    named = schema.get("type")
    names = named if isinstance(named, list) else [named]
    types = {_known(name) for name in names if isinstance(name, str)}
    allowed = schema.get("enum")
    if isinstance(allowed, list):
        types.update(_TYPE_OF[type(value)] for value in allowed if type(value) in _TYPE_OF)
    for combination in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(combination)
        if isinstance(choices, list):
            types.update(*map(types_of, choices))
    return types or {"string"}


def value_of(text: str, types: set[str]) -> Any:
    """Return `text` as a value of the first of `types` that it can be read as.

    The order is null, integer, number, boolean, object and array, string, whatever the schema's
    order. Text that fits no type is read as JSON, or returned unchanged.
    """
    readers = [read for kind, read in _READERS.items() if kind in types]
    for read in [*readers, _json]:
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def _known(name: str) -> str:
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def _null(text: str) -> None:
    if text.lower() != "null":
        raise ValueError(text)


def _number(text: str) -> int | float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return int(number) if number == int(number) else number


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise ValueError(text)


def _json(text: str) -> Any:
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "null": _null,
    "integer": int,
    "number": _number,
    "boolean": _boolean,
    "object": _json,
    "array": _json,
    "string": str,
}
