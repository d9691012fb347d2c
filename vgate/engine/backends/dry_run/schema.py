"""JSON schemas of the dry-run engine: does a value conform? Pure.

It knows the part of JSON Schema that function arguments and response formats are written in, and
refuses the rest by name: a keyword that is passed over would be a promise not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vgate.errors import InvalidValueError, UnsupportedParameterError

_ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions"),
    }
)
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_KNOWN = _ANNOTATIONS | BOUNDS | {
    *("type", "enum", "const", "anyOf", "oneOf", "$ref"),
    *("properties", "required", "additionalProperties"),
    *("items", "minItems", "maxItems", "minLength", "maxLength"),
}  # fmt: skip
_TYPES: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": list,
    "object": dict,
}


class Schema:
    """A JSON schema.

    Args:
        document: As it was decoded.
        param: The field of the API that it comes from, for errors.

    Raises:
        InvalidValueError: It is no schema.
        UnsupportedParameterError: It has a keyword that is not known here.
    """

    def __init__(self, document: Any, param: str) -> None:
        self.root = document
        self._param = param
        for node in self._nodes(document):
            self._check(node)

    def accepts(self, value: Any) -> bool:
        """Say whether a JSON value conforms."""
        return self.fits(self.root, value)

    def _nodes(self, node: Any) -> Iterator[Any]:
        """Walk over all schemas in a schema."""
        pending = [node]
        while pending:
            node = pending.pop()
            yield node
            if not isinstance(node, dict):
                continue
            for name in ("properties", "$defs", "definitions"):
                if isinstance(inner := node.get(name, {}), dict):
                    pending += inner.values()
            for name in ("anyOf", "oneOf"):
                if isinstance(inner := node.get(name, []), list):
                    pending += inner
            pending += [node[name] for name in ("items", "additionalProperties") if name in node]

    def _check(self, node: Any) -> None:
        if isinstance(node, bool):
            return
        if not isinstance(node, dict):
            raise self.invalid(f"a JSON schema is an object or a truth value, got {node!r}")
        for keyword in node.keys() - _KNOWN:
            message = f"the dry-run engine can't follow the JSON schema keyword `{keyword}`"
            raise UnsupportedParameterError(message, param=self._param)
        for kind in as_list(node.get("type", [])):
            if not isinstance(kind, str) or kind not in _TYPES:
                raise self.invalid(f"the JSON schema has an unknown type, {kind!r}")
        shapes: dict[str, type | tuple[type, ...]] = {
            **dict.fromkeys(("properties", "$defs", "definitions"), dict),
            **dict.fromkeys(("enum", "anyOf", "oneOf", "required"), list),
            **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), int),
            **dict.fromkeys(BOUNDS, (int, float)),
        }
        for keyword, shape in shapes.items():
            if keyword in node and not isinstance(node[keyword], shape):
                raise self.invalid(f"the JSON schema's `{keyword}` has a wrong value")
        if not all(isinstance(name, str) for name in node.get("required", [])):
            raise self.invalid("the JSON schema's `required` has a wrong value")
        if "$ref" in node and not isinstance(self.resolve(node["$ref"]), dict | bool):
            raise self.invalid(f"the JSON schema refers to {node['$ref']!r}, which is no schema")

    def resolve(self, reference: Any) -> Any:
        """Return the schema that a reference means."""
        node = self.root
        path = str(reference)
        if not path.startswith("#"):
            raise self.invalid(f"the JSON schema refers to {path!r}, which is not in it")
        for step in path.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or name not in node:
                raise self.invalid(f"the JSON schema refers to {path!r}, which is not in it")
            node = node[name]
        return node

    def invalid(self, message: str) -> InvalidValueError:
        """Return what to raise for the schema."""
        return InvalidValueError(message, param=self._param)

    def fits(self, node: Any, value: Any) -> bool:
        """Say whether a JSON value conforms to one of the schemas in this one."""
        if isinstance(node, bool):
            return node
        return (
            ("$ref" not in node or self.fits(self.resolve(node["$ref"]), value))
            and ("const" not in node or _same(node["const"], value))
            and ("enum" not in node or any(_same(one, value) for one in node["enum"]))
            and ("type" not in node or any(_is(value, kind) for kind in as_list(node["type"])))
            and ("anyOf" not in node or any(self.fits(one, value) for one in node["anyOf"]))
            and ("oneOf" not in node or sum(self.fits(one, value) for one in node["oneOf"]) == 1)
            and self._fits_itself(node, value)
        )

    def _fits_itself(self, node: dict[str, Any], value: Any) -> bool:
        """Say whether a value conforms to what a schema says of values of its type."""
        if isinstance(value, dict):
            known, others = node.get("properties", {}), node.get("additionalProperties", True)
            return all(name in value for name in node.get("required", [])) and all(
                self.fits(known.get(name, others), item) for name, item in value.items()
            )
        if isinstance(value, list):
            fits = node.get("minItems", 0) <= len(value) <= node.get("maxItems", math.inf)
            return fits and all(self.fits(node.get("items", True), item) for item in value)
        if isinstance(value, str):
            return bool(node.get("minLength", 0) <= len(value) <= node.get("maxLength", math.inf))
        if not _is(value, "number"):
            return True
        below, above = node.get("exclusiveMinimum", -math.inf), node.get("exclusiveMaximum")
        fits = node.get("minimum", -math.inf) <= value <= node.get("maximum", math.inf)
        return bool(fits and below < value < (math.inf if above is None else above))


def _is(value: Any, kind: str) -> bool:
    if kind in {"integer", "number"} and isinstance(value, bool):
        return False
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def as_list(value: Any) -> list[Any]:
    """Return a list of what may be one or several."""
    return value if isinstance(value, list) else [value]
