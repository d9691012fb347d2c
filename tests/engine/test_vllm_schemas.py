"""Parts of schemas that xgrammar would ignore."""

from typing import Any

import pytest

from vgate.engine.backends.vllm.schemas import ignored_part

FOUND: list[tuple[str, Any]] = [
    ("not", {"not": {"type": "string"}}),
    ("not", {"not": {}}),
    ("not", {"type": "object", "properties": {"a": {"items": [{"not": {"const": 1}}]}}}),
    ("if", {"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
    ("dependentRequired", {"$defs": {"a": {"dependentRequired": {"a": ["b"]}}}}),
    ("dependentSchemas", {"anyOf": [{}, {"dependentSchemas": {"a": {"minProperties": 2}}}]}),
    ("dependencies", {"patternProperties": {"x": {"dependencies": {"a": ["b"]}}}}),
    ("$dynamicRef", {"$dynamicRef": "#x"}),
    ("`minimum` without", {"items": {"minimum": 5}}),
    ("`pattern` without", {"pattern": "^a$"}),
    ("`required` without", {"anyOf": [{"required": ["a"]}]}),
    ("`properties` beside `anyOf`", {"anyOf": [{"type": "string"}], "properties": {"a": {}}}),
    ("`required` beside `allOf`", {"allOf": [{"$ref": "#/$defs/a"}], "required": ["a"]}),
    ("`maxLength` beside `$ref`", {"$ref": "#/$defs/a", "maxLength": 3}),
    ("`oneOf` beside `anyOf`", {"anyOf": [{}], "oneOf": [{}]}),
    ("$ref", {"properties": {"a": {"$ref": "https://example.com/schema"}}}),
    ("$ref", {"additionalProperties": {"$ref": "other.json#/$defs/a"}}),
]
NOT_FOUND: list[Any] = [
    True,
    {},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
    {"$ref": "#/$defs/a", "description": "d", "default": 1, "title": "t", "type": "object"},
    {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}], "default": None},
    {"properties": {"a": {"type": "string"}}, "required": ["a"]},
    {"enum": [1, 2], "minimum": 1},
    {"properties": {name: {"type": "string"} for name in ("not", "if", "$ref", "properties")}},
    {"definitions": {"dependencies": {"type": "object", "required": ["not"]}}},
    {"const": {"not": 1}, "default": {"if": 2}, "examples": [{"$ref": "elsewhere"}]},
    {"enum": [{"not": {"type": "string"}}]},
    {"dependentRequired": {}, "not": False},
]


@pytest.mark.parametrize(("keyword", "schema"), FOUND)
def test_an_ignored_part_is_found(keyword: str, schema: Any):
    assert keyword in (ignored_part(schema) or "")


@pytest.mark.parametrize("schema", NOT_FOUND)
def test_names_and_data_are_not_keywords(schema: Any):
    assert ignored_part(schema) is None
