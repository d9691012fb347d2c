"""Whether two JSON schemas certainly have no value in common, as `oneOf` wants it. Pure."""

import json
from collections.abc import Callable
from typing import Any

_ALL = frozenset({"null", "boolean", "number", "string", "array", "object"})
_OF_VALUE: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_MAX_DEPTH = 8


def disjoint(one: Any, other: Any, resolve: Callable[[Any], Any], depth: int = 0) -> bool:
    """Return whether no value satisfies both schemas, as far as that is easily seen.

    Args:
        one: A schema.
        other: Another.
        resolve: Follows a schema's `$ref`.
        depth: How many schemas they are in.
    """
    one, other = resolve(one), resolve(other)
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict) or depth > _MAX_DEPTH:
        return False
    for first, second in ((one, other), (other, one)):
        for keyword, quantifier in (("anyOf", all), ("oneOf", all), ("allOf", any)):
            parts = first.get(keyword)
            if isinstance(parts, list) and quantifier(
                disjoint(part, second, resolve, depth + 1) for part in parts
            ):
                return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    shared = _types(one) & _types(other)
    if not shared:
        return True
    if shared == {"object"}:
        return _objects(one, other, resolve, depth)
    return shared == {"number"} and (_below(one, other) or _below(other, one))


def _values(schema: dict[str, Any]) -> set[str] | None:
    if "const" in schema:
        return {_text(schema["const"])}
    values = schema.get("enum")
    return {_text(value) for value in values} if isinstance(values, list) else None


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _types(schema: dict[str, Any]) -> frozenset[str]:
    given = schema.get("type")
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else None
    types = _ALL if names is None else {"number" if n == "integer" else n for n in names}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        types = types & {_OF_VALUE[type(value)] for value in values}
    return frozenset(types)


def _objects(
    one: dict[str, Any], other: dict[str, Any], resolve: Callable[[Any], Any], depth: int
) -> bool:
    """Whether a property that one of the objects must have is impossible in the other."""
    for first, second in ((one, other), (other, one)):
        for name in first.get("required") or ():
            mine, theirs = _property(first, name), _property(second, name)
            # What the second object may leave out makes no difference.
            certain = theirs is False or name in (second.get("required") or ())
            if certain and disjoint(mine, theirs, resolve, depth + 1):
                return True
            if disjoint(mine, theirs, resolve, depth + 1):
                # The first must have it, with a value that the second doesn't allow.
                return True
    return False


def _property(schema: dict[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)


def _below(one: dict[str, Any], other: dict[str, Any]) -> bool:
    most, least = one.get("maximum"), other.get("minimum")
    return isinstance(most, int | float) and isinstance(least, int | float) and most < least
