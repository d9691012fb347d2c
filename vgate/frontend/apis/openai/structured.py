"""The constraints that a request can put on an answer's text."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import check_json
from vgate.frontend.pipeline.constraints import (
    check_schema_size,
    check_text_size,
    schema_constraint,
)
from vgate.wire.messages import StructuredOutput

_Text = Annotated[str, Meta(min_length=1)]


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema with a name, as OpenAI wraps it. It is always followed, `strict` or not."""

    name: _Text
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's way to say it; structural tags are vLLM's addition."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    format: Any = None
    structures: list[Any] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's way to say it: one of the first six, and options."""

    json: _Text | dict[str, Any] | None = None
    regex: str | None = None
    choice: Annotated[list[_Text], Meta(min_length=1)] | None = None
    grammar: _Text | None = None
    json_object: bool | None = None
    structural_tag: _Text | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_REFUSED_OPTIONS = {
    "disable_additional_properties": "say it in the schema",
    # vLLM's xgrammar and guidance pass it over.
    "whitespace_pattern": "JSON is compact",
}


def constraint_of(
    response_format: ResponseFormat | None, outputs: StructuredOutputs | None
) -> StructuredOutput | None:
    """Return the constraint that a request puts on its text, apart from tool calls.

    Raises:
        InvalidRequestError: There are two at once, or one that can't be.
    """
    demanded = None if response_format is None else _of_response_format(response_format)
    if outputs is None:
        return demanded
    if demanded is not None:
        message = "set only one of `response_format` and `structured_outputs`"
        raise InvalidValueError(message, param="structured_outputs")
    return _of_structured_outputs(outputs)


def _of_response_format(wanted: ResponseFormat) -> StructuredOutput | None:
    _check_belongs(wanted)
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return StructuredOutput("json_object")
    if wanted.type == "structural_tag":
        return _structural_tag(wanted)
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        where = "response_format.json_schema" + (".schema" if wanted.json_schema else "")
        raise InvalidValueError(f"`{where}` is required", param=where)
    check_json(wanted.json_schema.schema, "response_format.json_schema.schema")
    return schema_constraint(wanted.json_schema.schema, "response_format")


def _check_belongs(wanted: ResponseFormat) -> None:
    for name, kind in (
        ("json_schema", "json_schema"),
        ("format", "structural_tag"),
        ("structures", "structural_tag"),
        ("triggers", "structural_tag"),
    ):
        if getattr(wanted, name) is not None and wanted.type != kind:
            where = f"response_format.{name}"
            message = f"`{where}` is only allowed with `response_format.type` {kind!r}"
            raise InvalidValueError(message, param=where)


def _structural_tag(wanted: ResponseFormat) -> StructuredOutput:
    """Either of the two ways to write one: a format, or structures and what triggers them."""
    parts = {"structures": wanted.structures, "triggers": wanted.triggers}
    given = {name: part for name, part in parts.items() if part is not None}
    if wanted.format is not None and not given:
        given = {"format": wanted.format}
    elif wanted.format is not None or len(given) != len(parts):
        message = "`response_format` needs either `format`, or `structures` and `triggers`"
        raise InvalidValueError(message, param="response_format")
    check_json(given, "response_format")
    check_schema_size(given, "response_format")
    text = json.dumps({"type": "structural_tag", **given}, ensure_ascii=False)
    return StructuredOutput("structural_tag", text)


def _of_structured_outputs(outputs: StructuredOutputs) -> StructuredOutput:
    where = "structured_outputs"
    given = [name for name in _KINDS if getattr(outputs, name) is not None]
    if len(given) != 1:
        got = f", got {', '.join(given)}" if given else ""
        message = f"`{where}` needs exactly one of {', '.join(_KINDS)}{got}"
        raise InvalidValueError(message, param=where)
    kind = given[0]
    _check_options(outputs, kind)
    field = f"{where}.{kind}"
    return StructuredOutput(
        kind,  # type: ignore[arg-type]
        _value(outputs, kind, field),
        bool(outputs.disable_any_whitespace),
        field,
    )


def _check_options(outputs: StructuredOutputs, kind: str) -> None:
    for name, instead in _REFUSED_OPTIONS.items():
        if getattr(outputs, name):
            where = f"structured_outputs.{name}"
            message = f"`{where}` is not supported by this server; {instead}"
            raise UnsupportedParameterError(message, param=where)
    if outputs.disable_any_whitespace and kind not in {"json", "json_object"}:
        where = "structured_outputs.disable_any_whitespace"
        message = f"`{where}` is only allowed with json or json_object"
        raise InvalidValueError(message, param=where)


def _value(outputs: StructuredOutputs, kind: str, where: str) -> str | list[str]:
    value: Any = getattr(outputs, kind)
    if kind == "json_object":
        if value is False:
            raise InvalidValueError(f"`{where}` must be true or left out", param=where)
        return ""
    if kind == "json":
        schema = _parsed(value, where) if isinstance(value, str) else value
        check_json(schema, where)
        check_schema_size(schema, where)
        return json.dumps(schema, ensure_ascii=False)
    if kind == "structural_tag":
        tag = _parsed(value, where)
        check_json(tag, where)
        check_schema_size(tag, where)
    else:
        check_text_size(value if isinstance(value, list) else [value], where)
    if kind == "regex" and "\0" in value:
        raise InvalidValueError(f"`{where}` must not have a NUL character", param=where)
    text: str | list[str] = value
    return text


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        message = f"`{where}` must be a JSON object: {error}"
        raise InvalidValueError(message, param=where) from None
    if not isinstance(document, dict):
        message = f"`{where}` must be a JSON object"
        raise InvalidValueError(message, param=where)
    return document
