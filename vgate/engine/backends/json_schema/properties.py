"""How many properties an object of a JSON schema may have, and under which names. Pure."""

import math
from itertools import combinations
from typing import Any

from vgate.engine.backends.json_schema.patterns import (
    ANY_TEXT,
    MalformedError,
    UnsupportedError,
    other_than,
)

_MAX_COMBINATIONS = 200


def count_of(node: dict[str, Any], keyword: str, default: Any) -> Any:
    """Return a keyword's number, which must be whole and not negative."""
    value = node.get(keyword, default)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < 0 or (value != default and value % 1):
        raise MalformedError(f"`{keyword}` must be a whole number")
    return value


def count_properties(node: dict[str, Any], out: dict[str, Any]) -> None:
    """Translate a schema's number of properties.

    Those that it names are counted by naming their combinations. Others may repeat, so that only
    their greatest number is certain.

    Args:
        node: The schema.
        out: Its translation, to which the numbers are added.

    Raises:
        MalformedError, UnsupportedError: No object has so many, or they can't be counted.
    """
    required = set(out.get("required", ()))
    optional = [name for name in out.get("properties", {}) if name not in required]
    closed = out.get("additionalProperties") is False and "patternProperties" not in out
    least = count_of(node, "minProperties", 0) - len(required)
    most = count_of(node, "maxProperties", math.inf) - len(required)
    if most < max(least, 0) or (closed and least > len(optional)):
        raise MalformedError("no object has so few or so many properties")
    if closed:
        most = min(most, len(optional))
    if least <= 0 and most == (len(optional) if closed else math.inf):
        return
    if closed:
        out.setdefault("allOf", []).append({"anyOf": _combinations(optional, least, int(most))})
    elif optional or least > 1 or (least == 1 and required):
        raise UnsupportedError("`minProperties` or `maxProperties` beside other properties")
    else:
        out |= {"minProperties": 1} if least == 1 else {}
        out |= {"maxProperties": int(most) + len(required)} if most < math.inf else {}


def name_others(out: dict[str, Any]) -> None:
    r"""Say by a pattern which other properties an object may have.

    As `additionalProperties` llguidance takes them in any spelling, so that ``"\u0061"`` would come
    again as a property `a` with any value.
    """
    others = out.get("additionalProperties", {})
    if others is False:
        return
    names = {*out.get("properties", ()), *out.get("required", ())}
    if "patternProperties" in out:
        if others != {}:
            raise UnsupportedError("`additionalProperties` beside `patternProperties`")
    elif names:
        out["patternProperties"] = {other_than(names) if others != {} else ANY_TEXT: others}
    else:
        return
    out["additionalProperties"] = False


def _combinations(optional: list[str], least: int, most: int) -> list[dict[str, Any]]:
    """Return the schemas of objects that have `least` to `most` of the optional properties."""
    sizes = range(max(least, 0), most + 1) if most < len(optional) else [max(least, 0)]
    if sum(math.comb(len(optional), size) for size in sizes) > _MAX_COMBINATIONS:
        raise UnsupportedError("`minProperties` or `maxProperties` of so many properties")
    options = []
    for chosen in (names for size in sizes for names in combinations(optional, size)):
        option: dict[str, Any] = {"required": list(chosen)}
        if most < len(optional):
            option["properties"] = {name: False for name in optional if name not in chosen}
        options.append(option)
    return options
