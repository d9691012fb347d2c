"""The formats that a generation's text must follow: their size limits, and those of tool calls.

The time to compile a grammar grows faster than its size. Only one is compiled at a time, so the
largest should take a second or two, also with a grammar library that is slower than llguidance:
with xgrammar 0.2 an object of 1,000 optional properties takes 1 to 5 s (with llguidance 0.1 s), and
200 properties of which 50 to 100 are required take 9 s.
"""

import json
from typing import Any

from vgate.errors import InvalidValueError
from vgate.frontend.pipeline.generation import Constraint, ToolUse
from vgate.wire.parameters import StructuredOutput

# Of a regular expression, a grammar, or all choices together.
MAX_CHARS = 65_536
# OpenAI's bound on what names and values of a schema have together (guide "Structured outputs").
MAX_SCHEMA_CHARS = 120_000
MAX_SCHEMA_PARTS = 8192
# Of all its texts: each of a request's sequences is sent with them.
MAX_SCHEMA_TEXT = 1_048_576
MAX_OPTIONAL = 1000
# What `minItems` and `maxItems` of all arrays may be together. llguidance makes a symbol for each:
# 16,384 take 0.3 s, and 100 million take all memory and end the engine.
MAX_ARRAY_ITEMS = 16_384
# Of a regular expression, a grammar, or all of a schema or a structural tag. What both libraries
# take grows with their square where they allow nothing: `.*` 2,048 times a second and 110 MB.
MAX_QUANTIFIERS = 2048
_QUANTIFIERS = "*+?{"


def schema_constraint(schema: dict[str, Any], where: str) -> Constraint:
    """Return the constraint to JSON that follows a schema, which `check_json` has accepted.

    Raises:
        InvalidValueError: The schema is too large.
    """
    check_schema_size(schema, where)
    return Constraint(StructuredOutput("json", json.dumps(schema, ensure_ascii=False)), where)


def calls_constraint(tools: ToolUse, *, harmony: bool = False) -> Constraint | None:
    """Return the constraint that makes the model call the tools it must; None if it need not.

    The schemas are vLLM's (vllm/tool_parsers/utils.py), so that both constrain a request alike.
    With `harmony`, calls are in gpt-oss's format, where an answer has one.

    Raises:
        InvalidValueError: The schemas of two tools can't be combined, or are too large.
    """
    if harmony and tools.mode in {"named", "required"}:
        return _harmony_call(tools)
    if tools.mode == "named":
        # The last of two with the same name, as in vLLM.
        index = max(i for i, tool in enumerate(tools.functions) if tool["name"] == tools.name)
        field = f"tools[{index}].function.parameters"
        return schema_constraint(_parameters(tools.functions[index]), field)
    if tools.mode == "required":
        return schema_constraint(_calls_schema(tools.functions, parallel=tools.parallel), "tools")
    return None


def _harmony_call(tools: ToolUse) -> Constraint:
    """Return the constraint to a call of the tool that is named, or else of any, by their names."""
    schemas = {
        function["name"]: _parameters(function)
        for function in tools.functions
        if tools.name in {None, function["name"]}
    }
    check_schema_size(schemas, "tools")
    written = {name: json.dumps(schema, ensure_ascii=False) for name, schema in schemas.items()}
    return Constraint(StructuredOutput("json", harmony=written), "tools")


def check_text_size(texts: list[str], where: str) -> None:
    """Check the size of a constraint that is not JSON.

    Raises:
        InvalidValueError: It is too large.
    """
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise _too_large(where, f"{size} characters", MAX_CHARS)


def check_quantifiers(patterns: list[str], where: str) -> None:
    """Check how often expressions or grammars repeat something; also what is escaped counts.

    Raises:
        InvalidValueError: Too often.
    """
    count = sum(text.count(sign) for text in patterns for sign in _QUANTIFIERS)
    if count > MAX_QUANTIFIERS:
        raise _too_large(where, f"{count} quantifiers", MAX_QUANTIFIERS)


def check_schema_size(schema: Any, where: str) -> None:
    """Check the size of a schema, or of JSON with schemas in it that `check_json` has accepted.

    Raises:
        InvalidValueError: It is too large.
    """
    parts = chars = text = optional_squared = 0
    array_items = 0.0
    patterns: list[str] = []
    level = [schema]
    while level:
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                values = node.get("enum")
                parts += 1 + (len(values) if isinstance(values, list) else 0)
                chars += _chars(node)
                optional_squared += _optional_squared(node)
                array_items += _array_items(node)
                patterns += _patterns(node)
                text += sum(map(len, node))
                inner += node.values()
            elif isinstance(node, list):
                inner += node
            elif isinstance(node, str):
                text += len(node)
        level = inner
    if parts > MAX_SCHEMA_PARTS:
        raise _too_large(where, f"{parts} objects and values of enums", MAX_SCHEMA_PARTS)
    if chars > MAX_SCHEMA_CHARS:
        what = f"{chars} characters in names of properties, values and patterns"
        raise _too_large(where, what, MAX_SCHEMA_CHARS)
    if text > MAX_SCHEMA_TEXT:
        raise _too_large(where, f"{text} characters", MAX_SCHEMA_TEXT)
    check_quantifiers(patterns, where)
    if array_items > MAX_ARRAY_ITEMS:
        what = f"{array_items:.12g} items in `minItems` and `maxItems` together"
        raise _too_large(where, what, MAX_ARRAY_ITEMS)
    if optional_squared > MAX_OPTIONAL**2:
        # Several objects count as if they were one.
        what = f"the weight of {int(optional_squared**0.5)} optional properties in one object"
        raise _too_large(where, what, MAX_OPTIONAL)


def _chars(node: dict[str, Any]) -> int:
    """Return the characters in an object's names, values, pattern and grammar."""
    properties, values = node.get("properties"), node.get("enum")
    texts = [*properties] if isinstance(properties, dict) else []
    texts += values if isinstance(values, list) else []
    texts += [node.get("const"), node.get("pattern"), node.get("grammar")]
    return sum(len(text) for text in texts if isinstance(text, str))


def _patterns(node: dict[str, Any]) -> list[str]:
    """Return an object's patterns, and the grammar that a part of a structural tag may be."""
    by_name, texts = node.get("patternProperties"), [node.get("pattern"), node.get("grammar")]
    found = [*by_name] if isinstance(by_name, dict) else []
    return found + [text for text in texts if isinstance(text, str)]


def _array_items(node: dict[str, Any]) -> float:
    counts = (node.get("minItems"), node.get("maxItems"))
    return max(0, 0, *(count for count in counts if isinstance(count, int | float)))


def _optional_squared(node: dict[str, Any]) -> int:
    properties = node.get("properties")
    if not isinstance(properties, dict):
        return 0
    count = len(properties)
    required, most = node.get("required"), node.get("maxProperties")
    optional = count
    if isinstance(required, list):
        optional -= len({name for name in required if isinstance(name, str)} & properties.keys())
    if most is None and node.get("minProperties") is None:
        return optional**2
    # Each state of the grammar contains the number of properties so far.
    # A negative number, which no object fits, must not make room for others.
    return count**2 * (max(0, min(most, count)) if isinstance(most, int) else count)


def _too_large(where: str, what: str, most: int) -> InvalidValueError:
    message = f"`{where}` is too large: it has {what}, the most is {most}"
    return InvalidValueError(message, param=where)


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    return function["parameters"] or {"type": "object", "properties": {}}


def _calls_schema(functions: list[dict[str, Any]], *, parallel: bool) -> dict[str, Any]:
    """Return the schema of a list of calls; definitions move to its root, where $ref finds them."""
    definitions: dict[str, Any] = {}
    calls = []
    for index, function in enumerate(functions):
        parameters = dict(_parameters(function))
        _merge(
            definitions, parameters.pop("$defs", {}), f"tools[{index}].function.parameters.$defs"
        )
        properties = {
            "name": {"type": "string", "enum": [function["name"]]},
            "parameters": parameters,
        }
        calls.append({"properties": properties, "required": ["name", "parameters"]})
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "anyOf": calls},
    }
    if not parallel:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return schema


def _merge(definitions: dict[str, Any], more: Any, where: str) -> None:
    if not isinstance(more, dict):
        raise InvalidValueError(f"`{where}` must be an object", param=where)
    for name, definition in more.items():
        if definitions.setdefault(name, definition) != definition:
            message = f"`{where}.{name}` differs from another tool's definition of that name"
            raise InvalidValueError(message, param=f"{where}.{name}")
