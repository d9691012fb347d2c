"""Translates JSON schemas into ones that the grammar library follows to the letter. Pure.

The result has only keywords that llguidance implements as JSON Schema 2020-12 means them, with
patterns and formats as exact regular expressions. A keyword that limits values and that can't be
followed is refused; all unknown ones are annotations.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from vgate.engine.backends.json_schema.disjoint import disjoint
from vgate.engine.backends.json_schema.formats import FORMATS
from vgate.engine.backends.json_schema.numeric import bounds_of, exceeds
from vgate.engine.backends.json_schema.patterns import MalformedError, UnsupportedError, searched
from vgate.engine.backends.json_schema.properties import count_of, count_properties, name_others

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
_MAX_COMBINATIONS = 200
# Of options of all `oneOf`, and of values in them: about a second, in which other threads of the
# engine hardly run. Some 500 options are told apart by a constant each.
_MOST_COMPARISONS = 300_000


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
        # By what `$ref` says, and whether the definition is all that describes a value.
        self._names: dict[tuple[str, bool], str] = {}
        self._definitions: dict[tuple[str, bool], Any] = {}
        # Whether the schema at hand is all that describes a value.
        self._alone = True
        self._comparisons = 0
        size = self._size
        self._keywords: dict[str, Callable[[dict[str, Any], dict[str, Any], str], None]] = {
            "type": self._type,
            "enum": self._values,
            "const": self._values,
            "$ref": self._reference,
            "anyOf": self._several,
            "oneOf": self._several,
            "allOf": self._several,
            "properties": self._properties,
            "patternProperties": self._patterns,
            "additionalProperties": self._child,
            "required": self._required,
            "items": self._items,
            "prefixItems": self._prefix,
            **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), size),
        }

    def result(self) -> dict[str, Any]:
        node = self._node(self._root)
        if node is False:
            raise MalformedError("no value satisfies `false`")
        while waiting := self._names.keys() - self._definitions.keys():
            for pointer, alone in sorted(waiting):
                target = self._target(pointer)
                self._definitions[pointer, alone] = self._node(target, alone=alone)
        definitions = {self._names[key]: one for key, one in self._definitions.items()}
        return {**node, "$defs": definitions} if definitions else node

    def _node(self, schema: Any, *, alone: bool = True) -> Any:
        """Return a part of the schema: an object, or False where no value is allowed.

        Args:
            schema: The part.
            alone: Whether it is all that describes a value.
        """
        if isinstance(schema, bool):
            return {} if schema else False
        node = _mapping(schema, "a schema")
        _check_refused(node, is_root=node is self._root)
        out: dict[str, Any] = {}
        before, self._alone = self._alone, alone and _describes_once(node)
        # llguidance takes properties in the order in which the keywords name them.
        for keyword in node:
            if (translate := self._keywords.get(keyword)) is not None:
                translate(node, out, keyword)
        if self._alone and "properties" in out and out["properties"].keys() >= {*_required(out)}:
            # As OpenAI's strict mode demands and xgrammar has it: a model is to invent no others.
            out.setdefault("additionalProperties", "patternProperties" in out and {})
        self._strings(node, out)
        out |= bounds_of(node)
        self._names_of_properties(node, out)
        count_properties(node, out)
        name_others(out)
        self._alone = before
        return out

    def _size(self, node: dict[str, Any], out: dict[str, Any], keyword: str) -> None:
        out[keyword] = int(count_of(node, keyword, 0))

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
                if not disjoint(one, other, self._compared):
                    raise UnsupportedError("`oneOf` with options that a value may share")
            keyword = "anyOf"
        made = [self._node(option, alone=self._alone) for option in options]
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
        name = self._names.setdefault((pointer, self._alone), f"d{len(self._names)}")
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

    def _compared(self, schema: Any) -> Any:
        """Return an option of `oneOf`, or a part of one, for a comparison.

        Raises:
            UnsupportedError: There have been too many: options have options, and each is compared
                with all others.
        """
        schema = self._resolved(schema)
        values = schema.get("enum") if isinstance(schema, dict) else None
        self._comparisons += 1 + (len(values) if isinstance(values, list) else 0)
        if self._comparisons > _MOST_COMPARISONS:
            raise UnsupportedError("`oneOf` whose options take too long to compare")
        return schema

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


# The keywords of `propertyNames` that limit nothing.
_ANNOTATIONS = frozenset({"title", "description", "$comment", "default", "examples"})


# Keywords that describe an object; each applicator beside them describes it once more.
_OF_OBJECTS = frozenset(
    {"properties", "patternProperties", "additionalProperties", "required", "propertyNames"}
)


def _describes_once(node: dict[str, Any]) -> bool:
    """Whether a schema has only one keyword, or group of keywords, that can name properties."""
    parts = node["allOf"] if isinstance(node.get("allOf"), list) else []
    others = sum(keyword in node for keyword in ("$ref", "anyOf", "oneOf"))
    return len(parts) + others + bool(node.keys() & _OF_OBJECTS) <= 1


def _required(out: dict[str, Any]) -> list[str]:
    names: list[str] = out.get("required", [])
    return names


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} must be an object")
    return value


def _list(value: Any, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"`{keyword}` must be a list")
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
    if exceeds(value):
        raise UnsupportedError(f"`{keyword}` with a number of so many digits")
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
