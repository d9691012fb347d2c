"""JSON text of values, and values of JSON text, that never raise and always fit into UTF-8."""

from __future__ import annotations

import json
import re
from typing import Any

# Half of a UTF-16 pair: a string may hold one (an escape makes it), UTF-8 may not.
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Return JSON text as a model would write it.

    Raises:
        ValueError: JSON has no such value: infinity, or nesting without end.
        TypeError: As ValueError.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    return json.dumps(value, allow_nan=False) if _SURROGATE.search(text) else text


def read_string(text: str) -> str | None:
    """Return the string that a JSON text is; None if it is none that UTF-8 can hold."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) and not _SURROGATE.search(value) else None
