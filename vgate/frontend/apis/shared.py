"""What requests of several APIs have in common: tools, calls, stop strings."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

MAX_STOPS = 16
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]

# OpenAI's bound is 128 (API reference, "Create chat completion"); agents of other APIs have more.
MAX_TOOLS = 512

# OpenAI has letters, digits, "_" and "-", up to 64; other APIs' and gateways' names have more.
# Python's `$` also comes before a last line break; a JSON schema's pattern has no `\Z` instead.
ToolName = Annotated[str, Meta(pattern=r"^[\w.:/-]{1,128}$(?!\n)")]

# The id of a call that the model made, and the name that it called: of a tool that it may have
# made up.
CallText = Annotated[str, Meta(min_length=1, max_length=256)]

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def function_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    """Return a tool as vLLM shows it to templates: these fields in this order, absent ones null."""
    function: dict[str, Any] = {
        "name": name,
        "description": description,
        "parameters": parameters,
    }
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def arguments_of(text: str) -> str | dict[str, Any]:
    """Return a call's arguments as an object; a call without any may leave them out.

    Text that isn't an object stays what it is: models write such calls, and an agent that reports
    the mistake to its model shows it the call.
    """
    if not text.strip():
        return {}
    try:
        return _decode_object(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
