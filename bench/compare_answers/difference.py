"""The first difference between two answers."""

from typing import Any

import msgspec

# Log probabilities come from sums whose order may differ with the batch.
TOLERANCE = 1e-4
_SHOWN_CHARS = 60
_ABSENT = "absent"


class Difference(msgspec.Struct, frozen=True):
    """Where two answers begin to differ, and what each has there."""

    path: str
    ours: str
    theirs: str


def first_difference(ours: Any, theirs: Any, path: str = "") -> Difference | None:
    """Return the first place where two values differ, or None; floats may differ a little."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in dict.fromkeys([*theirs, *ours]):
            here = f"{path}.{name}" if path else name
            if name not in ours or name not in theirs:
                shown = [_shown(one[name]) if name in one else _ABSENT for one in (ours, theirs)]
                return Difference(here, *shown)
            if found := first_difference(ours[name], theirs[name], here):
                return found
        return None
    if isinstance(ours, list) and isinstance(theirs, list):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if found := first_difference(one, other, f"{path}[{index}]"):
                return found
        same = len(ours) == len(theirs)
        return None if same else Difference(f"{path}.length", str(len(ours)), str(len(theirs)))
    return None if _same(ours, theirs) else _of_values(path, ours, theirs)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) or isinstance(theirs, float):
        numbers = all(isinstance(value, float | int) for value in (ours, theirs))
        return numbers and abs(ours - theirs) <= TOLERANCE
    return bool(ours == theirs)


def _of_values(path: str, ours: Any, theirs: Any) -> Difference:
    if isinstance(ours, str) and isinstance(theirs, str):
        start = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        if start > _SHOWN_CHARS // 2:
            place = f"{path}, character {start}"
            return Difference(place, _shown(ours[start:]), _shown(theirs[start:]))
    return Difference(path, _shown(ours), _shown(theirs))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
