"""Structured output of the dry-run engine: the last message if it conforms, else a minimal value.

Only simple JSON schemas are simulated. Other keywords are refused by name, because ignoring one
would break the promise that the output conforms. Pure.
"""

import json
import math
import re
from typing import Any

from vgate.engine.backends.json_schema import FORMATS
from vgate.engine.request import RequestError
from vgate.wire.parameters import StructuredOutput

_ANNOTATIONS = {"$schema", "$defs", "definitions", "title", "description", "default", "examples"}
# A schema with one of these has no other keyword but `type` and annotations.
_ALONE = ("$ref", "const", "enum", "anyOf")
_KEYWORDS = {
    *("type", "minimum", "maximum", "maxLength", "items", "minItems", "maxItems"),
    *("properties", "required", "additionalProperties"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_MAX_ITEMS = 1000
_NONE: Any = object()
# Raised by walking over a document that is no JSON schema, or recurses endlessly.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)


def text_of(structured: StructuredOutput, messages: list[str]) -> str:
    """Return a text that satisfies the constraint.

    Args:
        structured: The constraint; RequestError is raised if it is invalid or can't be simulated.
        messages: Candidates for the last message, most likely first: a template may put the role
            before it.
    """
    value, compact = structured.value, structured.disable_any_whitespace
    match structured.kind:
        case "json":
            return _of_schema(str(value), messages, compact)
        case "json_object":
            return _of_schema('{"type": "object"}', messages, compact)
        case "choice":
            return next((message for message in messages if message in value), value[0])
        case "regex":
            return _of_regex(str(value), messages)
    raise _unsupported(f"the dry-run engine does not simulate `{structured.kind}`")


def _of_regex(pattern: str, messages: list[str]) -> str:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _invalid(f"the regular expression is not valid: {error}") from None
    if matching := next(filter(compiled.fullmatch, messages), None):
        return matching
    raise _invalid(
        "the dry-run engine simulates only a regular expression that the last message matches"
    )


def _of_schema(document: str, messages: list[str], compact: bool) -> str:
    try:
        root = json.loads(document)
        _check(root)
        for message in messages:
            value = _parsed(message)
            if value is not _NONE and _same(_conforming(root, root, value), value):
                return _compact(value) if compact else message.strip()
        return _compact(_conforming(root, root, None))
    except _MALFORMED:
        raise _invalid(
            "the JSON schema is malformed, or not one of those that the dry-run engine simulates"
        ) from None


def _check(node: Any) -> None:
    """Check that a schema has only keywords that `_conforming` follows."""
    if isinstance(node, bool):
        return
    alone = next((keyword for keyword in _ALONE if keyword in node), None)
    known = _ANNOTATIONS | ({alone, "type"} if alone else _KEYWORDS)
    if isinstance(name := node.get("format"), str) and name not in FORMATS:
        # An annotation, as for vLLM.
        known |= {"format"}
    for keyword in node.keys() - known:
        reason = f"the dry-run engine simulates only simple JSON schemas, without `{keyword}`"
        raise _unsupported(f"{reason} beside `{alone}`" if alone else reason)
    for kind in _as_list(node.get("type", [])):
        _TYPES[kind]
    children = [node[name] for name in ("items", "additionalProperties") if name in node]
    for name in ("properties", "$defs", "definitions"):
        children += node.get(name, {}).values()
    for child in [*children, *node.get("anyOf", [])]:
        _check(child)


def _conforming(root: Any, node: Any, value: Any) -> Any:
    """Return the value if it conforms to `node`, a part of schema `root`, or else one that does."""
    if node is True:
        return value
    if node is False:
        raise ValueError
    if "const" in node:
        value = node["const"]
    elif "enum" in node:
        value = next((one for one in node["enum"] if _same(one, value)), node["enum"][0])
    elif "$ref" in node:
        value = _conforming(root, _resolve(root, node["$ref"]), value)
    elif "anyOf" in node:
        options = (_conforming(root, option, value) for option in node["anyOf"])
        same = next((option for option in options if _same(option, value)), _NONE)
        value = _conforming(root, node["anyOf"][0], value) if same is _NONE else same
    else:
        return _of_type(root, node, value)
    if "type" in node and not any(_is(value, kind) for kind in _as_list(node["type"])):
        raise ValueError
    return value


def _of_type(root: Any, node: dict[str, Any], value: Any) -> Any:
    known = node.get("properties", {})
    kinds = _as_list(node.get("type", "object" if known else list(_TYPES)))
    match next((kind for kind in kinds if _is(value, kind)), kinds[0]):
        case "object":
            others = node.get("additionalProperties", True)
            given = value if _is(value, "object") else {}
            names = [name for name in given if others is not False or name in known]
            names += [name for name in node.get("required", []) if name not in given]
            return {
                name: _conforming(root, known.get(name, others), given.get(name)) for name in names
            }
        case "array":
            given = value[: node.get("maxItems")] if _is(value, "array") else []
            least = node.get("minItems", 0)
            if least > min(node.get("maxItems", _MAX_ITEMS), _MAX_ITEMS):
                raise ValueError
            given += [None] * (least - len(given))
            return [_conforming(root, node.get("items", True), item) for item in given]
        case "string":
            return value[: node.get("maxLength")] if _is(value, "string") else ""
        case "integer" | "number" as kind:
            number = value if _is(value, kind) else 0
            low, high = node.get("minimum", -math.inf), node.get("maximum", math.inf)
            if not low <= number <= high:
                number = math.ceil(low) if number < low else math.floor(high)
            if not low <= number <= high:
                raise ValueError
            return number
        case "boolean":
            return value is True
    return None


def _resolve(root: Any, reference: str) -> Any:
    document, *path = reference.split("/")
    if document != "#":
        raise LookupError(reference)
    for step in path:
        root = root[step.replace("~1", "/").replace("~0", "~")]
    return root


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NONE


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _invalid(reason: str) -> RequestError:
    return RequestError("invalid_value", reason, "constraint")


def _unsupported(reason: str) -> RequestError:
    return RequestError("unsupported_parameter", reason, "constraint")
