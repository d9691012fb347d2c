"""The bounds of numbers in JSON schemas, as llguidance and its clients' floats agree on. Pure."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from vgate.engine.backends.json_schema.patterns import MalformedError, UnsupportedError

# Integers beyond it would be rounded, and llguidance makes no ranges beyond it.
_LARGEST = 2**53
# llguidance reads numbers of more digits inexactly.
_DIGITS = 15
_UP, _DOWN = (Context(prec=_DIGITS, rounding=to) for to in (ROUND_CEILING, ROUND_FLOOR))
# The number after a smaller one has too many digits.
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
    whole = node.get("type") == "integer"
    out: dict[str, Any] = {}
    for keyword, strict, loose, sign in (("inimum", above, low, 1), ("aximum", below, high, -1)):
        bounds = [] if loose is None else [_within(loose, sign, whole=whole)]
        if strict is not None and abs(strict) < _SMALLEST:
            out[f"exclusiveM{keyword}"] = strict
        elif strict is not None:
            bounds.append(_within(strict, sign, whole=whole, strict=True))
        if bounds:
            out[f"m{keyword}"] = _clamped(sign * max(sign * one for one in bounds), sign)
    return out | _step(node)


def exceeds(value: Any) -> bool:
    """Return whether a number has more digits than llguidance reads exactly."""
    if isinstance(value, float):
        return len(Decimal(repr(value)).as_tuple().digits) > _DIGITS
    return isinstance(value, int) and abs(value) > 2**63 - 1


def _within(bound: Any, sign: int, *, whole: bool, strict: bool = False) -> Any:
    """Return the nearest bound that llguidance reads exactly, and that includes itself.

    Args:
        bound: What a value may not be below, or above if `sign` is -1.
        sign: 1 or -1.
        whole: Whether the values are whole numbers.
        strict: Whether the bound itself is out. Clients read the decimals nearest to it as itself,
            so they are out as well.
    """
    if whole:
        first = math.ceil(bound) if sign > 0 else math.floor(bound)
        return first + sign if strict and first == bound else first
    if not strict and not exceeds(bound):
        return bound
    context = _UP if sign > 0 else _DOWN
    nearest = context.plus(Decimal(repr(bound)))
    if strict and float(nearest) == bound:
        nearest = context.next_plus(nearest) if sign > 0 else context.next_minus(nearest)
    return float(nearest)


def _clamped(bound: Any, sign: int) -> Any:
    if sign * bound > _LARGEST:
        keyword = "minimum" if sign > 0 else "maximum"
        raise UnsupportedError(f"`{keyword}` of a number of more than 53 bits")
    return sign * max(sign * bound, -_LARGEST)


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
