"""A small value that conforms to a JSON schema, for the dry-run engine to say. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vgate.engine.backends.dry_run.schema import BOUNDS, Schema, as_list

# Keywords that say what a schema without `type` is about.
_TYPE_OF_KEYWORD = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "minItems": "array",
    "minLength": "string",
    **dict.fromkeys(BOUNDS, "number"),
}
# How deep an instance may be, tried one after the other, so that it does not become deeper than a
# schema that refers to itself needs.
_DEPTHS = (4, 8, 16, 32)
_MAX_VISITS = 20_000
_MAX_LENGTH = 10_000


def instance_of(schema: Schema) -> Any:
    """Return a value that conforms.

    Raises:
        InvalidValueError: None is found.
    """
    for depth in _DEPTHS:
        try:
            return _Search(schema).instance(schema.root, depth)
        except _NoInstanceError:
            continue
    message = "the dry-run engine finds nothing that conforms to the JSON schema"
    raise schema.invalid(message)


class _NoInstanceError(Exception):
    """There is none within the depth."""


class _Search:
    """Looks for an instance, for as long as that is reasonable."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._visits = 0

    def instance(self, node: Any, depth: int) -> Any:
        """Return a value that conforms to a part of the schema, at most so deep.

        Raises:
            _NoInstanceError: None of those that are tried does.
        """
        self._visits += 1
        if depth == 0 or node is False or self._visits > _MAX_VISITS:
            raise _NoInstanceError
        if node is True:
            return None
        for candidate in self._candidates(node, depth):
            if self._schema.fits(node, candidate):
                return candidate
        raise _NoInstanceError

    def _candidates(self, node: dict[str, Any], depth: int) -> Iterator[Any]:
        if "const" in node:
            yield node["const"]
        yield from node.get("enum", [])
        others = [self._schema.resolve(node["$ref"])] if "$ref" in node else []
        for other in [*others, *node.get("anyOf", []), *node.get("oneOf", [])]:
            try:
                yield self.instance(other, depth - 1)
            except _NoInstanceError:
                continue
        kinds = as_list(node.get("type", [])) or [
            kind for keyword, kind in _TYPE_OF_KEYWORD.items() if keyword in node
        ]
        for kind in kinds or ["null"]:
            try:
                yield from self._of_type(kind, node, depth)
            except _NoInstanceError:
                continue

    def _of_type(self, kind: str, node: dict[str, Any], depth: int) -> Iterator[Any]:
        match kind:
            case "object":
                known, others = node.get("properties", {}), node.get("additionalProperties", True)
                yield {
                    name: self.instance(known.get(name, others), depth - 1)
                    for name in node.get("required", [])
                }
            case "array":
                count = min(node.get("minItems", 0), _MAX_LENGTH)
                yield [self.instance(node.get("items", True), depth - 1)] * count if count else []
            case "string":
                yield "a" * min(node.get("minLength", 0), _MAX_LENGTH)
            case "integer" | "number":
                yield from _numbers(node)
            case "boolean":
                yield False
            case _:
                yield None


def _numbers(node: dict[str, Any]) -> Iterator[float]:
    """Give 0, and numbers at, between and beside the bounds."""
    yield 0
    low = max(node.get("minimum", -math.inf), node.get("exclusiveMinimum", -math.inf))
    high = min(node.get("maximum", math.inf), node.get("exclusiveMaximum", math.inf))
    if math.isfinite(low):
        yield from (math.ceil(low), math.floor(low) + 1, low)
    if math.isfinite(high):
        yield from (math.floor(high), math.ceil(high) - 1, high)
    if math.isfinite(low) and math.isfinite(high):
        yield low + (high - low) / 2
