"""Finds the parts of JSON schemas that xgrammar would silently ignore. Pure."""

from typing import Any

# Keywords that are ignored, with their neutral values. vLLM refuses others itself
# (has_xgrammar_unsupported_json_features).
_IGNORED: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "if": (False,),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "$dynamicRef": (),
}
# xgrammar follows the first of these and ignores everything else in the same schema. (`type` beside
# them is common and usually redundant.)
_ALONE = ("$ref", "anyOf", "oneOf", "allOf")
_OF_SCALARS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "format"),
)
_OF_CONTAINERS = (
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems"),
)
_BESIDE = (*_ALONE, "enum", "const", *_OF_CONTAINERS, *_OF_SCALARS)
# The keys below the first are names, not keywords; the second hold data, not schemas.
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_DATA = ("const", "enum", "default", "examples", "example")


def ignored_part(schema: Any) -> str | None:
    """Return a description of a part that would have no effect, or None."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if (found := _of(node)) is not None:
                return found
            for keyword, value in node.items():
                if keyword in _BY_NAME and isinstance(value, dict):
                    waiting += value.values()
                elif keyword not in _DATA:
                    waiting.append(value)
    return None


def _of(node: dict[str, Any]) -> str | None:
    for keyword, neutral in _IGNORED.items():
        if keyword in node and node[keyword] not in neutral:
            return f"`{keyword}`"
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        return "`$ref` to another document"
    alone = next((keyword for keyword in _ALONE if keyword in node), None)
    if alone is not None:
        beside = (keyword for keyword in _BESIDE if keyword in node and keyword != alone)
        return next((f"`{keyword}` beside `{alone}`" for keyword in beside), None)
    if not node.keys() & {"type", "enum", "const", *_OF_CONTAINERS}:
        # Their type would be guessed.
        untyped = (keyword for keyword in _OF_SCALARS if keyword in node)
        return next((f"`{keyword}` without `type`" for keyword in untyped), None)
    if "required" in node and not node.keys() & {"type", "properties"}:
        return "`required` without `type`"
    return None
