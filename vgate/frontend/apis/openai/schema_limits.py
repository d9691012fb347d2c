"""How large a form may be: making a grammar of it takes time that grows faster than its size.

One request's grammar is made at a time, so the largest that is allowed should take a second or two.
Measured with xgrammar 0.2: an object of 1,000 optional properties takes 1 s, one of 2,000 more
than 25 s; 200 properties of which 50 to 100 must be there take 9 s.
"""

from __future__ import annotations

from typing import Any

from vgate.errors import InvalidValueError

# Of a regular expression, a grammar, or all choices together.
MAX_CHARS = 65_536
# OpenAI's bound on what names and values of a schema have together (guide "Structured outputs").
MAX_SCHEMA_CHARS = 120_000
MAX_SCHEMA_PARTS = 8192
MAX_OPTIONAL = 1000


def check_text_size(texts: list[str], where: str) -> None:
    """Check the size of a form that is not JSON.

    Raises:
        InvalidValueError: It is too large.
    """
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise _too_large(where, f"{size} characters", MAX_CHARS)


def check_schema_size(schema: Any, where: str) -> None:
    """Check the size of a schema, or of what has schemas in it; it is not deep.

    Raises:
        InvalidValueError: It is too large.
    """
    parts = chars = optional_squared = 0
    level = [schema]
    while level:
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                parts += 1
                chars += _chars(node)
                optional_squared += _optional_squared(node)
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level = inner
    if parts > MAX_SCHEMA_PARTS:
        raise _too_large(where, f"{parts} objects", MAX_SCHEMA_PARTS)
    if chars > MAX_SCHEMA_CHARS:
        what = f"{chars} characters in names of properties, values and patterns"
        raise _too_large(where, what, MAX_SCHEMA_CHARS)
    if optional_squared > MAX_OPTIONAL**2:
        # Several objects add up as if they were one.
        what = f"the weight of {int(optional_squared**0.5)} optional properties in one object"
        raise _too_large(where, what, MAX_OPTIONAL)


def _chars(node: dict[str, Any]) -> int:
    """Return how much text a part of a schema demands."""
    properties, values = node.get("properties"), node.get("enum")
    texts = [*properties] if isinstance(properties, dict) else []
    texts += values if isinstance(values, list) else []
    texts += [node.get("const"), node.get("pattern")]
    return sum(len(text) for text in texts if isinstance(text, str))


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
    # How many there are is part of each state.
    return count**2 * (min(most, count) if isinstance(most, int) else count)


def _too_large(where: str, what: str, most: int) -> InvalidValueError:
    message = f"`{where}` is too large: it has {what}, the most is {most}"
    return InvalidValueError(message, param=where)
