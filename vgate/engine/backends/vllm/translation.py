"""Translates JSON schemas into ones that the grammar library follows to the letter. Pure.

The result has only keywords that llguidance implements as JSON Schema 2020-12 means them, with
patterns and formats as exact regular expressions. A keyword that limits values and that can't be
followed is refused; all unknown ones are annotations.
"""

import math
from decimal import Decimal
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from vgate.engine.backends.vllm.disjoint import disjoint
from vgate.engine.backends.vllm.formats import FORMATS
from vgate.engine.backends.vllm.patterns import MalformedError, UnsupportedError, searched

# Keywords that limit values, with the values that limit nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "uniqueItems": (False,),
    "contains": (),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
# Integers beyond it would be rounded, and llguidance makes no ranges beyond it.
_LARGEST = 2**53
_MAX_COMBINATIONS = 200


def translated(schema: Any) -> dict[str, Any]:
    """Return the translation of a schema.

    Raises:
        MalformedError: It is no schema, or no value satisfies it.
        UnsupportedError: A part of it can't be followed.
    """
    return _Translation(schema).result()


class _Translation:
    """One schema; what `$ref` names is translated once and moves to the root."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}

    def result(self) -> dict[str, Any]:
        node = self._node(self._root)
        if node is False:
            raise MalformedError("no value satisfies `false`")
        while waiting := self._names.keys() - self._definitions.keys():
            for pointer in sorted(waiting):
                self._definitions[pointer] = self._node(self._target(pointer))
        definitions = {self._names[pointer]: one for pointer, one in self._definitions.items()}
        return {**node, "$defs": definitions} if definitions else node

    def _node(self, schema: Any) -> Any:
        """Return a part of the schema: an object, or False where no value is allowed."""
        if isinstance(schema, bool):
            return {} if schema else False
        node = _mapping(schema, "a schema")
        _check_refused(node, is_root=node is self._root)
        out: dict[str, Any] = {}
        # llguidance takes properties in the order in which the keywords name them.
        for keyword in node:
            if (method := _METHODS.get(keyword)) is not None:
                method(self, node, out, keyword)
        self._strings(node, out)
        _numbers(node, out)
        self._names_of_properties(node, out)
        self._count_properties(node, out)
        return out

    def _size(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        out[keyword] = int(_count(node, keyword, 0))

    def _prefix(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        out[keyword] = [self._node(item) for item in _list(node[keyword], keyword)]

    def _type(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        names = node[keyword] if isinstance(node[keyword], list) else [node[keyword]]
        for name in names:
            if not isinstance(name, str) or name not in _TYPES:
                raise MalformedError(f"there is no `type` {name!r}")
        out[keyword] = node[keyword]

    def _values(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        values = _list(node[keyword], keyword) if keyword == "enum" else [node[keyword]]
        for value in values:
            _check_value(value, keyword)
        out[keyword] = node[keyword]

    def _required(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        if not all(isinstance(name, str) for name in _list(node[keyword], keyword)):
            raise MalformedError("`required` must be a list of names")
        out[keyword] = node[keyword]

    def _child(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        out[keyword] = self._node(node[keyword])

    def _items(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        if isinstance(node[keyword], list):
            # Before 2020-12 a list was what `prefixItems` is now.
            out["prefixItems"] = [self._node(item) for item in node[keyword]]
            out["items"] = self._node(node.get("additionalItems", True))
        else:
            self._child(node, out, keyword)

    def _several(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        options = _list(node[keyword], keyword)
        if not options:
            raise MalformedError(f"`{keyword}` is empty")
        if keyword == "oneOf":
            for one, other in combinations(options, 2):
                if not disjoint(one, other, self._resolved):
                    raise UnsupportedError("`oneOf` with options that a value may share")
            keyword = "anyOf"
        made = [self._node(option) for option in options]
        if keyword == "allOf":
            out.setdefault("allOf", []).extend(made)
        elif keyword in out:
            out.setdefault("allOf", []).append({keyword: made})
        else:
            out[keyword] = made

    def _properties(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        properties = _mapping(node[keyword], f"`{keyword}`")
        out[keyword] = {name: self._node(value) for name, value in properties.items()}

    def _patterns(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        properties = _mapping(node[keyword], f"`{keyword}`")
        out[keyword] = {
            _exact(pattern, keyword): self._node(value) for pattern, value in properties.items()
        }

    def _reference(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        pointer = node[keyword]
        seen = set()
        target: Any = node
        while isinstance(target, dict) and "$ref" in target:
            reference = target["$ref"]
            if not isinstance(reference, str) or reference in seen:
                raise MalformedError("a `$ref` that leads nowhere")
            seen.add(reference)
            target = self._target(reference)
        name = self._names.setdefault(pointer, f"d{len(self._names)}")
        out["$ref"] = f"#/$defs/{name}"

    def _target(self, pointer: str) -> Any:
        """Return the part of the schema that a reference names."""
        if not pointer.startswith("#"):
            raise UnsupportedError("`$ref` to another document")
        if pointer not in ("#", "#/") and not pointer.startswith("#/"):
            raise UnsupportedError("`$ref` to an anchor")
        target = self._root
        for step in unquote(pointer[1:]).split("/")[1:] if pointer != "#/" else ():
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(name)] if isinstance(target, list) else target[name]
            except (LookupError, TypeError, ValueError):
                raise MalformedError(f"`$ref` {pointer!r} leads nowhere") from None
        return target

    def _resolved(self, schema: Any) -> Any:
        """Follow the references of a schema that has nothing else, as far as they lead."""
        for _ in range(_MAX_COMBINATIONS):
            if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
                return schema
            schema = self._target(schema["$ref"])
        return {}

    def _strings(self, node: dict[str, Any], out: dict[str, Any]) -> None:
        patterns = []
        if "pattern" in node:
            patterns.append(_exact(node["pattern"], "pattern"))
        if (known := _format(node)) is not None:
            patterns.append(known)
        if patterns:
            out["pattern"], *others = patterns
            if others:
                out.setdefault("allOf", []).extend({"pattern": pattern} for pattern in others)

    def _names_of_properties(self, node: dict[str, Any], out: dict[str, Any]) -> None:
        names = self._resolved(node.get("propertyNames", True))
        if names is True or not (isinstance(names, dict) and names.keys() - _ANNOTATIONS):
            return
        if names.get("type", "string") != "string" or out.keys() & {
            "properties",
            "patternProperties",
        }:
            raise UnsupportedError("`propertyNames` beside other names")
        limits = names.keys() - _ANNOTATIONS - {"type"}
        allowed = out.pop("additionalProperties", {})
        if limits == {"enum"} and all(isinstance(name, str) for name in names["enum"]):
            out["properties"] = dict.fromkeys(names["enum"], allowed)
        elif limits == {"pattern"}:
            pattern = _exact(names["pattern"], "propertyNames")
            out["patternProperties"] = {pattern: allowed}
        elif limits:
            raise UnsupportedError("`propertyNames` with anything but one `pattern` or `enum`")
        else:
            out["additionalProperties"] = allowed
            return
        out["additionalProperties"] = False

    def _count_properties(self, node: dict[str, Any], out: dict[str, Any]) -> None:
        """Count optional properties by naming the combinations; other names may repeat."""
        properties = out.get("properties", {})
        required = set(out.get("required", ()))
        optional = [name for name in properties if name not in required]
        least = _count(node, "minProperties", 0) - len(required)
        most = _count(node, "maxProperties", math.inf) - len(required)
        closed = out.get("additionalProperties") is False and "patternProperties" not in out
        if most < 0 or (closed and least > len(optional)):
            raise MalformedError("no object has so few or so many properties")
        if least <= 0 and (most == math.inf or (closed and most >= len(optional))):
            return
        if not closed:
            if least > 1 or optional or (least == 1 and required):
                raise UnsupportedError("`minProperties` or `maxProperties` beside other properties")
            out |= {"minProperties": least} if least == 1 else {}
            out |= {"maxProperties": most + len(required)} if most < math.inf else {}
            return
        count = max(least, 0)
        if math.comb(len(optional), count) * (1 if most >= len(optional) else 2) > _MAX_COMBINATIONS:
            raise UnsupportedError("`minProperties` or `maxProperties` of so many properties")
        sizes = {count} if most >= len(optional) else range(count, int(most) + 1)
        options = []
        for size in sizes:
            for chosen in combinations(optional, size):
                option: dict[str, Any] = {"required": list(chosen)}
                if most < len(optional):
                    option["properties"] = {n: False for n in optional if n not in chosen}
                options.append(option)
        if len(options) > _MAX_COMBINATIONS:
            raise UnsupportedError("`minProperties` or `maxProperties` of so many properties")
        out.setdefault("allOf", []).append({"anyOf": options})


_METHODS = {
    "type": _Translation._type,
    "enum": _Translation._values,
    "const": _Translation._values,
    "$ref": _Translation._reference,
    "anyOf": _Translation._several,
    "oneOf": _Translation._several,
    "allOf": _Translation._several,
    "properties": _Translation._properties,
    "patternProperties": _Translation._patterns,
    "additionalProperties": _Translation._child,
    "required": _Translation._required,
    "items": _Translation._items,
    "prefixItems": _Translation._prefix,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _Translation._size),
}
# The keywords of `propertyNames` that limit nothing.
_ANNOTATIONS = frozenset({"title", "description", "$comment", "default", "examples"})


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} must be an object")
    return value


def _list(value: Any, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"`{keyword}` must be a list")
    return value


def _count(node: dict[str, Any], keyword: str, default: Any) -> Any:
    value = node.get(keyword, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or (value != default and value % 1):
        raise MalformedError(f"`{keyword}` must be a whole number")
    return value


def _check_refused(node: dict[str, Any], *, is_root: bool) -> None:
    for keyword, neutral in _REFUSED.items():
        if keyword in node and node[keyword] not in neutral:
            raise UnsupportedError(f"`{keyword}`")
    if "if" in node and node.keys() & {"then", "else"}:
        raise UnsupportedError("`if`")
    if "$id" in node and not is_root:
        raise UnsupportedError("`$id` below its root")


def _check_value(value: Any, keyword: str) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**63 - 1:
        raise UnsupportedError(f"`{keyword}` with a number of more than 64 bits")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_value(inner, keyword)


def _exact(pattern: Any, keyword: str) -> str:
    if not isinstance(pattern, str):
        raise MalformedError(f"`{keyword}` must be a string")
    try:
        return f"^{searched(pattern)}$"
    except MalformedError as error:
        raise MalformedError(f"`{keyword}` is no regular expression: {error}") from None
    except UnsupportedError as error:
        raise UnsupportedError(f"`{keyword}` with {error}") from None


def _format(node: dict[str, Any]) -> str | None:
    name = node.get("format")
    known = FORMATS.get(name) if isinstance(name, str) else None
    return None if known is None else f"^(?:{known})$"


def _number(node: dict[str, Any], keyword: str) -> float | int | None:
    value = node.get(keyword)
    if value is not None and not isinstance(value, int | float):
        raise MalformedError(f"`{keyword}` must be a number")
    return value


def _numbers(node: dict[str, Any], out: dict[str, Any]) -> None:
    """Bounds for numbers of any type; those beyond what llguidance can follow come nearer."""
    low, high = _number(node, "minimum"), _number(node, "maximum")
    above, below = _number(node, "exclusiveMinimum"), _number(node, "exclusiveMaximum")
    # Before draft 6 these were flags.
    above = low if above is True else None if above is False else above
    below = high if below is True else None if below is False else below
    # The next number, because clients read decimals that are nearer as the bound itself.
    if above is not None:
        nearest = above + 1 if node.get("type") == "integer" else math.nextafter(above, math.inf)
        low = nearest if low is None else max(low, nearest)
    if below is not None:
        nearest = below - 1 if node.get("type") == "integer" else math.nextafter(below, -math.inf)
        high = nearest if high is None else min(high, nearest)
    for keyword, value in (("minimum", low), ("maximum", high)):
        if value is not None:
            if not -_LARGEST <= value <= _LARGEST and (value > 0) == (keyword == "minimum"):
                raise UnsupportedError(f"`{keyword}` of a number of more than 53 bits")
            out[keyword] = max(-_LARGEST, min(value, _LARGEST))
    step = _number(node, "multipleOf")
    if step is not None:
        _, denominator = Decimal(str(step)).as_integer_ratio()
        if step <= 0 or denominator & (denominator - 1) or denominator > _LARGEST:
            raise UnsupportedError(f"`multipleOf` {step}, which binary numbers can't be")
        out["multipleOf"] = step
