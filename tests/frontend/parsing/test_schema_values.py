"""Plain text becomes a value of a type in the tool's schema, if it can."""

import pytest

from vgate.frontend.parsing.schema_values import types_of, value_of


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (None, {"string"}),
        ({}, {"string"}),
        ({"type": 5}, {"string"}),
        ({"type": "Int32"}, {"integer"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        (
            {"enum": [1, "a", None, True, 1.5, [], {}]},
            {"integer", "string", "null", "boolean", "number", "array", "object"},
        ),
        ({"anyOf": [{"type": "integer"}, {"oneOf": [{"type": "bool"}]}]}, {"integer", "boolean"}),
        ({"anyOf": 5, "allOf": []}, {"string"}),
    ],
)
def test_types_that_a_schema_allows(schema, types):
    assert types_of(schema) == types


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", {"string"}, "5"),
        ("5", {"integer"}, 5),
        ("5", {"string", "integer"}, 5),
        ("null", {"string", "null"}, None),
        ("5.5", {"integer"}, 5.5),
        ("5.0", {"number"}, 5),
        ("1e999", {"number"}, "1e999"),
        ("TRUE", {"boolean"}, True),
        ("0", {"boolean"}, False),
        ("yes", {"boolean"}, "yes"),
        ('{"a": [1]}', {"object"}, {"a": [1]}),
        ("[1, NaN]", {"array"}, "[1, NaN]"),
        ("[1,", {"array"}, "[1,"),
        ("[" * 100_000, {"array"}, "[" * 100_000),
        ("9" * 10_000, {"integer"}, "9" * 10_000),
    ],
)
def test_text_is_read_as_the_first_type_that_fits(text, types, value):
    read = value_of(text, types)
    assert read == value
    assert type(read) is type(value)
