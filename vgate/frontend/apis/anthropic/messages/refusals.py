"""Types that Anthropic's API has and this server does not: images, documents, server tools.

They are looked for when decoding has failed, for the decoder only knows that they are not ours.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vgate.errors import InvalidRequestError, UnsupportedParameterError

_STEP = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
_TOOL = re.compile(r"tools\[\d+\]")
# Where a type stands, and what it may be.
_ALLOWED = (
    (re.compile(r"messages\[\d+\]\.content\[\d+\]\.content\[\d+\]\.type"), "only 'text' is"),
    (
        re.compile(r"messages\[\d+\]\.content\[\d+\]\.type"),
        "only text, tool_use, tool_result, thinking and redacted_thinking are",
    ),
    (re.compile(r"system\[\d+\]\.type"), "only 'text' is"),
    (re.compile(r"tool_choice\.type"), "only auto, any, tool and none are"),
    (re.compile(r"thinking\.type"), "only enabled, adaptive and disabled are"),
)


def refused_type(error: InvalidRequestError, body: bytes) -> InvalidRequestError | None:
    """Return the refusal of a type that made decoding fail with `error`, if that is what it was."""
    path = error.param or ""
    if tool := _TOOL.match(path):
        # A server tool has fields of its own, at which the decoder stops before its type.
        path, allowed = f"{tool[0]}.type", "only 'custom' is"
    else:
        allowed = next((words for at, words in _ALLOWED if at.fullmatch(path)), "")
    if not allowed:
        return None
    value = _value_at(body, path)
    if not isinstance(value, str) or (tool and value == "custom"):
        return None
    message = f"`{path}` {value[:80]!r} is not supported; {allowed}"
    return UnsupportedParameterError(message, param=path)


def _value_at(body: bytes, path: str) -> Any:
    try:
        value = msgspec.json.decode(body)
        for index, name in _STEP.findall(path):
            value = value[int(index)] if index else value[name]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None
    return value
