"""What the dry-run engine says where a form is asked for: the last message if it fits. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from vgate.engine.backends.dry_run.instance import instance_of
from vgate.engine.backends.dry_run.schema import Schema
from vgate.errors import InvalidRequestError, InvalidValueError, UnsupportedParameterError
from vgate.wire.messages import StructuredOutput

_NOT_JSON = object()


def text_of(structured: StructuredOutput, messages: list[str]) -> str:
    """Return a text of the form.

    Args:
        structured: The form.
        messages: What the last message may have been, most likely first: a template may put a word
            of its own before it.

    Raises:
        InvalidRequestError: The form is wrong, or the engine can't follow it.
    """
    try:
        return _text_of(structured, messages)
    except InvalidRequestError as error:
        message = f"`{structured.field}` can't be followed: {error.message}"
        raise type(error)(message, param=structured.field) from None


def _text_of(structured: StructuredOutput, messages: list[str]) -> str:
    param = structured.field
    value = structured.value
    match structured.kind:
        case "json":
            return _of_schema(str(value), messages, param, structured.disable_any_whitespace)
        case "json_object":
            return _of_schema(
                '{"type": "object"}', messages, param, structured.disable_any_whitespace
            )
        case "choice":
            return next((message for message in messages if message in value), value[0])
        case "regex":
            return _of_regex(str(value), messages, param)
    message = f"the dry-run engine can't follow `{structured.kind}`"
    raise UnsupportedParameterError(message, param=param)


def _of_schema(text: str, messages: list[str], param: str, compact: bool) -> str:
    try:
        schema = Schema(json.loads(text), param)
        for message in messages:
            value = _parsed(message)
            if value is not _NOT_JSON and schema.accepts(value):
                return _compact(value) if compact else message.strip()
        return _compact(instance_of(schema))
    except (ValueError, RecursionError, OverflowError):
        problem = "the JSON schema is not JSON, or it is too deep for the dry-run engine"
        raise InvalidValueError(problem, param=param) from None


def _of_regex(pattern: str, messages: list[str], param: str) -> str:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        message = f"the regular expression is not valid: {error}"
        raise InvalidValueError(message, param=param) from None
    for message in messages:
        if compiled.fullmatch(message):
            return message
    message = (
        "the dry-run engine answers with the last message, and can only follow a regular "
        "expression that this matches"
    )
    raise InvalidValueError(message, param=param)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
