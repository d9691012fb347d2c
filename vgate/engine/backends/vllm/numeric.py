"""The bounds of numbers in JSON schemas, as llguidance and its clients' floats agree on. Pure."""

import math
from decimal import Decimal
from typing import Any

from vgate.engine.backends.vllm.patterns import MalformedError, UnsupportedError

# Integers beyond it would be rounded, and llguidance makes no ranges beyond it.
_LARGEST = 2**53
# The float after a smaller one has too many digits.
_SMALLEST = 1e-6


def bounds_of(node: dict[str, Any]) -> dict[str, Any]:
    """Return a schema's keywords for numbers; bounds that can't be followed come nearer.

    Raises:
        MalformedError, UnsupportedError: They are no numbers, or can't be followed.
    """
    low, high = _number(node, "minimum"), _number(node, "maximum")
    above, below = _number(node, "exclusiveMinimum"), _number(node, "exclusiveMaximum")
    # Before draft 6 these were flags.
    above = low if above is True else None if above is False else above
    below = high if below is True else None if below is False else below
    out: dict[str, Any] = {}
    integer = node.get("type") == "integer"
    for keyword, bound, inclusive, sign in (
        ("exclusiveMinimum", above, low, 1),
        ("exclusiveMaximum", below, high, -1),
    ):
        if bound is not None and abs(bound) < _SMALLEST:
            out[keyword] = bound
        elif bound is not None:
            # The next number, because clients read a decimal that is nearer as the bound itself.
            nearest = bound + sign if integer else math.nextafter(bound, sign * math.inf)
            stricter = (
                nearest if inclusive is None else sign * max(sign * inclusive, sign * nearest)
            )
            low, high = (stricter, high) if sign > 0 else (low, stricter)
    for keyword, value in (("minimum", low), ("maximum", high)):
        if value is not None:
            if not -_LARGEST <= value <= _LARGEST and (value > 0) == (keyword == "minimum"):
                raise UnsupportedError(f"`{keyword}` of a number of more than 53 bits")
            out[keyword] = max(-_LARGEST, min(value, _LARGEST))
    return out | _step(node)


def _step(node: dict[str, Any]) -> dict[str, Any]:
    step = _number(node, "multipleOf")
    if step is None:
        return {}
    _, denominator = Decimal(str(step)).as_integer_ratio()
    if step <= 0 or denominator & (denominator - 1) or denominator > _LARGEST:
        raise UnsupportedError(f"`multipleOf` {step}, which binary numbers can't be")
    return {"multipleOf": step}


def _number(node: dict[str, Any], keyword: str) -> Any:
    value = node.get(keyword)
    if value is not None and not isinstance(value, int | float):
        raise MalformedError(f"`{keyword}` must be a number")
    return value
