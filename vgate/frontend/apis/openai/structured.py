"""The constraints that a request can put on an answer's text."""

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import check_json, check_json_text
from vgate.frontend.apis.fields import FieldPolicies, ignored
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.http import Ignored, decode_json
from vgate.frontend.pipeline import (
    Constraint,
    check_quantifiers,
    check_schema_size,
    check_text_size,
    schema_constraint,
)
from vgate.wire.parameters import StructuredOutput

_Text = Annotated[str, Meta(min_length=1)]


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema with a name. It is always enforced, `strict` or not."""

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's way to set a constraint; structural tags are vLLM's addition."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    format: Any = None
    structures: list[Any] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's way to set a constraint: one of the first six fields, and options.

    Options that don't apply to the constraint have no effect, as in vLLM, and objects never have
    properties that their schema doesn't mention unless it allows them.
    """

    json: _Text | dict[str, Any] | None = None
    regex: str | None = None
    choice: Annotated[list[_Text], Meta(min_length=1)] | None = None
    grammar: _Text | None = None
    json_object: bool | None = None
    structural_tag: _Text | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    # vLLM's xgrammar and guidance ignore it.
    whitespace_pattern: Annotated[str | None, ignored()] = None


_KINDS = StructuredOutputs.__struct_fields__[:6]
_policies = FieldPolicies(StructuredOutputs)


def check_constraints(
    response_format: ResponseFormat | None, outputs: StructuredOutputs | None, ignored: Ignored
) -> None:
    """Note what of a request's constraints has no effect."""
    if outputs is not None:
        _policies.check(outputs, ignored, "structured_outputs.")
    if response_format is not None:
        for name in _misplaced(response_format):
            ignored.add(f"response_format.{name}")


def _misplaced(requested: ResponseFormat) -> list[str]:
    """Return the fields that belong to other types of format."""
    kinds = {"json_schema": "json_schema"}
    return [
        name
        for name in ("json_schema", "format", "structures", "triggers")
        if getattr(requested, name) is not None
        and requested.type != kinds.get(name, "structural_tag")
    ]


def constraint_of(
    response_format: ResponseFormat | None, outputs: StructuredOutputs | None
) -> Constraint | None:
    """Return the constraint on a request's text; raise if there are two, or it can't be served."""
    constraint = None if response_format is None else _of_response_format(response_format)
    if outputs is None:
        return constraint
    if constraint is not None:
        message = "set only one of `response_format` and `structured_outputs`"
        raise InvalidValueError(message, param="structured_outputs")
    return _of_structured_outputs(outputs)


def _of_response_format(requested: ResponseFormat) -> Constraint | None:
    if requested.type == "text":
        return None
    if requested.type == "json_object":
        return Constraint(StructuredOutput("json_object"), "response_format")
    if requested.type == "structural_tag":
        return _structural_tag(requested)
    if requested.json_schema is None:
        raise invalid("response_format.json_schema", "is required")
    schema, path = requested.json_schema.schema, "response_format.json_schema.schema"
    if schema is None:
        raise invalid(path, "is required")
    check_json(schema, path)
    return schema_constraint(schema, "response_format")


def _structural_tag(requested: ResponseFormat) -> Constraint:
    """Return the constraint of either kind of tag: a format, or structures with triggers."""
    parts = {"structures": requested.structures, "triggers": requested.triggers}
    given = {name: part for name, part in parts.items() if part is not None}
    if requested.format is not None and not given:
        given = {"format": requested.format}
    elif requested.format is not None or len(given) != len(parts):
        raise invalid("response_format", "needs either `format`, or `structures` and `triggers`")
    check_json(given, "response_format")
    check_schema_size(given, "response_format")
    text = json.dumps({"type": "structural_tag", **given}, ensure_ascii=False)
    return Constraint(StructuredOutput("structural_tag", text), "response_format")


def _of_structured_outputs(outputs: StructuredOutputs) -> Constraint:
    given = [name for name in _KINDS if getattr(outputs, name) is not None]
    if len(given) != 1:
        got = f", got {', '.join(given)}" if given else ""
        problem = f"needs exactly one of {', '.join(_KINDS)}{got}"
        raise invalid("structured_outputs", problem)
    kind: Any = given[0]
    path = f"structured_outputs.{kind}"
    value = _checked_value(kind, getattr(outputs, kind), path)
    compact = bool(outputs.disable_any_whitespace) and kind in {"json", "json_object"}
    return Constraint(StructuredOutput(kind, value, compact), path)


def _checked_value(kind: str, value: Any, path: str) -> str | list[str]:
    if kind == "json_object":
        if value is False:
            raise invalid(path, "must be true or left out")
        return ""
    if kind in {"json", "structural_tag"}:
        document = _parsed(value, path) if isinstance(value, str) else value
        check_json(document, path)
        check_schema_size(document, path)
        return json.dumps(document, ensure_ascii=False)
    check_text_size(value if isinstance(value, list) else [value], path)
    if kind == "regex" and "\0" in value:
        raise invalid(path, "must not have a NUL character")
    if kind in {"regex", "grammar"}:
        check_quantifiers([value], path)
    text: str | list[str] = value
    return text


def _parsed(text: str, path: str) -> dict[str, Any]:
    check_json_text(text, path)
    try:
        document = decode_json(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise invalid(path, f"must be a JSON object: {error}") from None
    if not isinstance(document, dict):
        raise invalid(path, "must be a JSON object")
    return document
