"""Parts that requests of several APIs share: tools, stop strings, templates, query strings."""

from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError
from vgate.frontend.apis.decoding import check_json
from vgate.frontend.http import HttpRequest, Ignored, decode_json
from vgate.frontend.pipeline import TEMPLATE_FIELDS

MAX_STOPS = 16
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]

# OpenAI's bound is 128 (API reference, "Create chat completion"); agents of other APIs send more.
MAX_TOOLS = 512

# OpenAI allows 64 letters, digits, "_" and "-"; other APIs and gateways, and vLLM, allow more.
ToolName = Annotated[str, Meta(min_length=1, max_length=256)]

# The id of a call that the model made, and the tool's name, which the model may have made up.
CallText = Annotated[str, Meta(min_length=1, max_length=256)]

# Of 64 KB, as many as HTTP takes, 16,000 parameters would take 12 ms to read.
_MOST_QUERY_CHARS = 4096


def parameter_pairs(http: HttpRequest, *, keep_blank_values: bool = False) -> list[tuple[str, str]]:
    """Return the names and values of a query string.

    Raises:
        InvalidRequestError: It is too long.
    """
    if len(http.query) > _MOST_QUERY_CHARS:
        message = f"the query string must have at most {_MOST_QUERY_CHARS} characters"
        raise InvalidRequestError(message)
    return parse_qsl(http.query, keep_blank_values=keep_blank_values)


def parameters(http: HttpRequest, *, keep_blank_values: bool = False) -> dict[str, str]:
    """Return a query string's values by name, of each the last one; raise as `parameter_pairs`."""
    return dict(parameter_pairs(http, keep_blank_values=keep_blank_values))


def check_template_kwargs(kwargs: dict[str, Any] | None, ignored: Ignored) -> None:
    """Check the variables for the chat template, and note those that are fields of requests."""
    if not kwargs:
        return
    check_json(kwargs, "chat_template_kwargs")
    for name in TEMPLATE_FIELDS.intersection(kwargs):
        ignored.add(f"chat_template_kwargs.{name}")


def own_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the variables for the chat template that are no fields of requests."""
    if not kwargs:
        return {}
    return {name: value for name, value in kwargs.items() if name not in TEMPLATE_FIELDS}


def function_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    """Return a tool as vLLM gives it to templates: these fields in this order, absent ones null."""
    function: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def arguments_of(text: str) -> str | dict[str, Any]:
    """Return a call's arguments as an object, which is empty for empty text.

    Text that isn't an object is returned as it is: models write such calls, and an agent that
    reports the mistake sends the call back to its model.
    """
    if not text.strip():
        return {}
    try:
        value = decode_json(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
