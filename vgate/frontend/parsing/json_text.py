"""Conversion between values and JSON text that is always valid UTF-8."""

from __future__ import annotations

import json
import re
from typing import Any

# Half of a UTF-16 pair: a JSON escape can make one, and UTF-8 can't hold it.
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Return JSON text as a model would write it.

    Raises:
        ValueError: JSON can't express the value: infinity, or unbounded nesting.
        TypeError: JSON has no such type.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    return json.dumps(value, allow_nan=False) if _SURROGATE.search(text) else text


def read_string(text: str) -> str | None:
    """Return the string that a JSON text stands for; None if UTF-8 can't hold it."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) and not _SURROGATE.search(value) else None
