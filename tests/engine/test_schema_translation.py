"""JSON schemas translated for the grammar library; runs without vLLM."""

import re
from typing import Any

import pytest

from vgate.engine.backends.json_schema.formats import FORMATS
from vgate.engine.backends.json_schema.patterns import MalformedError, UnsupportedError
from vgate.engine.backends.json_schema.translation import translated

CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}
# The other properties of an object without a word about them.
OPEN = {"patternProperties": {"^(?s:.*)$": {}}, "additionalProperties": False}
CLOSED = {"type": "object", "additionalProperties": False}

TRANSLATED: list[tuple[Any, Any]] = [
    (True, {}),
    # Annotations and unknown keywords go, names and data stay.
    ({"title": "t", "x-y": 1, "nullable": True, "x-guidance": {"lenient": True}}, {}),
    (
        {"properties": {"title": {"title": "t"}}},
        {"properties": {"title": {}}, "additionalProperties": False},
    ),
    ({"const": {"title": 1}}, {"const": {"title": 1}}),
    ({"type": "string", "format": "password"}, {"type": "string"}),
    ({"type": "integer", "format": "int32"}, {"type": "integer"}),
    ({"type": "string", "maxLength": 5.0}, {"type": "string", "maxLength": 5}),
    ({"pattern": '^"$'}, {"pattern": r"^(?:\x{22})$"}),
    (
        {"pattern": "^a$", "format": "ipv4"},
        {"pattern": "^(?:a)$", "allOf": [{"pattern": f"^(?:{FORMATS['ipv4']})$"}]},
    ),
    # References lead to the root, whatever they named.
    (
        {"properties": {"a": {"type": "null"}, "b": {"$ref": "#/properties/a"}}},
        {
            "properties": {"a": {"type": "null"}, "b": {"$ref": "#/$defs/d0"}},
            "additionalProperties": False,
            "$defs": {"d0": {"type": "null"}},
        },
    ),
    (
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}, "maxLength": 3},
        {"$ref": "#/$defs/d0", "maxLength": 3, "$defs": {"d0": {"type": "null"}}},
    ),
    (
        {"items": {"$ref": "#"}},
        {"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": {"items": {"$ref": "#/$defs/d0"}}}},
    ),
    # Older drafts.
    (
        {"items": [{"type": "null"}], "additionalItems": False},
        {"prefixItems": [{"type": "null"}], "items": False},
    ),
    (
        {"minimum": 3, "exclusiveMinimum": True, "type": "integer"},
        {"type": "integer", "minimum": 4},
    ),
    # Bounds.
    ({"type": "integer", "exclusiveMinimum": 3, "minimum": 5}, {"type": "integer", "minimum": 5}),
    (
        {"type": "integer", "minimum": 2.5, "exclusiveMaximum": 9.5},
        {"type": "integer", "minimum": 3, "maximum": 9},
    ),
    ({"type": "number", "exclusiveMaximum": 0}, {"type": "number", "exclusiveMaximum": 0}),
    ({"exclusiveMinimum": 5}, {"minimum": 5.00000000000001}),
    ({"exclusiveMaximum": 99}, {"maximum": 98.9999999999999}),
    ({"maximum": 98.99999999999999}, {"maximum": 98.9999999999999}),
    ({"minimum": -0.12345678901234568}, {"minimum": -0.123456789012345}),
    ({"minimum": -1e30, "maximum": 1e30}, {"minimum": -(2**53), "maximum": 2**53}),
    ({"multipleOf": 0.25}, {"multipleOf": 0.25}),
    # What is the same as something else.
    ({"oneOf": [CAT, DOG]}, {"anyOf": [{**CAT, **CLOSED}, {**DOG, **CLOSED}]}),
    # An object that names its properties has no others, unless another schema may name them.
    ({"properties": {}}, {"properties": {}, "additionalProperties": False}),
    (
        {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
        {
            "properties": {"a": {}},
            "additionalProperties": False,
            "patternProperties": {
                r"^(?:\x{61}(?:(?s:.+))|[^\x00\x{61}](?s:.*))?$": {"type": "null"}
            },
        },
    ),
    (
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "required": ["b"], **OPEN},
    ),
    (
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {"properties": {}}}}]},
        {
            "allOf": [
                {"properties": {"a": {}}, **OPEN},
                {"properties": {"b": {"properties": {}, "additionalProperties": False}}, **OPEN},
            ]
        },
    ),
    (
        {"$ref": "#/$defs/a", "required": ["a"], "$defs": {"a": {"properties": {"a": {}}}}},
        {
            "$ref": "#/$defs/d0",
            "required": ["a"],
            **OPEN,
            "$defs": {"d0": {"properties": {"a": {}}, **OPEN}},
        },
    ),
    (
        {"oneOf": [{"type": "integer"}, {"type": "null"}]},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    ),
    ({"uniqueItems": False, "not": False, "if": {}, "unevaluatedItems": True}, {}),
    ({"propertyNames": {"type": "string", "title": "t"}}, {"additionalProperties": {}}),
    (
        {"propertyNames": {"enum": ["a"]}, "additionalProperties": {"type": "null"}},
        {"properties": {"a": {"type": "null"}}, "additionalProperties": False},
    ),
    (
        {"propertyNames": {"pattern": "^a$"}},
        {"patternProperties": {"^(?:a)$": {}}, "additionalProperties": False},
    ),
    # Numbers of properties.
    ({"required": ["a"], "minProperties": 1}, {"required": ["a"], **OPEN}),
    ({"maxProperties": 3}, {"maxProperties": 3}),
    (
        {**CLOSED, "properties": {"a": {}, "b": {}}, "minProperties": 1},
        {
            **CLOSED,
            "properties": {"a": {}, "b": {}},
            "allOf": [{"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}],
        },
    ),
]


@pytest.mark.parametrize(("schema", "expected"), TRANSLATED)
def test_a_translation_says_the_same(schema: Any, expected: Any):
    found = translated(schema)
    assert found == expected
    assert list(found) == list(expected)


def nested(kind: str, depth: int) -> dict[str, Any]:
    """Return a type with eight equal options, each of which has as many, and so on."""
    return {"type": kind} if not depth else {"anyOf": [nested(kind, depth - 1)] * 8}


UNSUPPORTED: list[tuple[Any, str]] = [
    ({"not": {}}, "`not`"),
    ({"items": {"uniqueItems": True}}, "`uniqueItems`"),
    ({"contains": {}}, "`contains`"),
    ({"if": {}, "then": {}}, "`if`"),
    ({"$defs": {"a": {"if": {}, "else": {}}}, "$ref": "#/$defs/a"}, "`if`"),
    ({"dependentRequired": {"a": ["b"]}}, "`dependentRequired`"),
    ({"dependencies": {"a": ["b"]}}, "`dependencies`"),
    ({"unevaluatedProperties": False}, "`unevaluatedProperties`"),
    ({"$dynamicRef": "#a"}, "`$dynamicRef`"),
    ({"$ref": "other.json"}, "`$ref` to another document"),
    ({"$ref": "#a"}, "`$ref` to an anchor"),
    ({"items": {"$id": "a"}}, "`$id`"),
    ({"pattern": "(?!a)"}, "`pattern` with look-ahead"),
    ({"patternProperties": {r"\ba": {}}}, "`patternProperties` with word boundaries"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "`oneOf`"),
    ({"oneOf": [CAT, {"type": "object"}]}, "`oneOf`"),
    ({"oneOf": [{"const": n} for n in range(560)]}, "`oneOf` whose options take too long"),
    ({"oneOf": [{"enum": [[n, m] for m in range(20)]} for n in range(200)]}, "too long"),
    ({"oneOf": [nested("integer", 3), nested("string", 3)]}, "too long"),
    ({"multipleOf": 0.1}, "`multipleOf` 0.1"),
    ({"minimum": 2**60}, "`minimum`"),
    ({"const": [2**64]}, "`const` with a number"),
    ({"enum": [{"a": 0.30000000000000004}]}, "`enum` with a number"),
    ({"minProperties": 2}, "`minProperties`"),
    (
        {"properties": {"a": {}}, "additionalProperties": True, "maxProperties": 2},
        "`minProperties` or `maxProperties`",
    ),
    ({"patternProperties": {"a": {}}, "additionalProperties": {"type": "null"}}, "`additional"),
    ({"propertyNames": {"maxLength": 3}}, "`propertyNames`"),
    ({"propertyNames": {"pattern": "a"}, "properties": {"a": {}}}, "`propertyNames`"),
]


@pytest.mark.parametrize(("schema", "part"), UNSUPPORTED)
def test_what_cannot_be_followed_is_named(schema: Any, part: str):
    with pytest.raises(UnsupportedError, match=re.escape(part)):
        translated(schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        [],
        {"type": "strange"},
        {"properties": []},
        {"items": 3},
        {"required": [1]},
        {"anyOf": []},
        {"enum": "a"},
        {"minLength": "a"},
        {"maxItems": -1},
        {"minimum": "a"},
        {"pattern": 3},
        {"pattern": "("},
        {"$ref": "#/$defs/a"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"required": ["a"], "maxProperties": 0},
        {**CLOSED, "minProperties": 1},
    ],
)
def test_what_is_no_schema_or_has_no_value_is_malformed(schema: Any):
    with pytest.raises(MalformedError):
        translated(schema)


OPTIONS: list[tuple[Any, Any, bool]] = [
    ({"type": "string"}, {"type": ["null", "array"]}, True),
    ({"type": "string"}, {"type": ["null", "string"]}, False),
    ({"enum": [1, 2]}, {"const": 3}, True),
    ({"enum": [1, 2]}, {"const": 2.0}, False),
    ({"const": "a"}, {"type": "integer"}, True),
    ({"maximum": 3, "type": "integer"}, {"minimum": 4, "type": "number"}, True),
    ({"maximum": 4, "type": "integer"}, {"minimum": 4, "type": "number"}, False),
    (CAT, DOG, True),
    (CAT, {"allOf": [DOG, {"title": "d"}]}, True),
    (CAT, {"anyOf": [DOG, {"type": "null"}]}, True),
    (CAT, {"anyOf": [DOG, {}]}, False),
    (CAT, {**CLOSED, "properties": {"name": {}}}, True),
    (CAT, {"type": "object", "properties": {"name": {}}}, False),
    ({"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}, True),
    ({"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/cat"}, False),
    ({}, {"type": "null"}, False),
]


def test_some_hundred_options_are_compared():
    options = [
        {"type": "object", "properties": {"a": {"const": n}}, "required": ["a"]} for n in range(380)
    ]
    for chosen in (options, [{"const": n} for n in range(540)]):
        assert len(translated({"oneOf": chosen})["anyOf"]) == len(chosen)


@pytest.mark.parametrize(("one", "other", "apart"), OPTIONS)
def test_one_of_options_that_are_apart_is_any_of_them(one: Any, other: Any, *, apart: bool):
    for options in ([one, other], [other, one]):
        schema = {"oneOf": options, "$defs": {"cat": CAT, "dog": DOG}}
        if apart:
            assert len(translated(schema)["anyOf"]) == 2
        else:
            with pytest.raises(UnsupportedError):
                translated(schema)
