"""The forms that a request can demand, however it says it."""

import json
from typing import Any

import pytest

from vgate.errors import InvalidRequestError, VGateError
from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.apis.openai.completions.request import decode_completion
from vgate.frontend.apis.openai.completions.request import generation_of as of_completion
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Constraint, Generation
from vgate.wire.parameters import StructuredOutput

SCHEMA = {"type": "object", "properties": {"é": {"type": "string"}}}
AS_TEXT = '{"type": "object", "properties": {"é": {"type": "string"}}}'
TOOLS = [{"type": "function", "function": {"name": "f"}}]
DEEP = json.loads('{"a":' * 80 + "1" + "}" * 80)


def generation(ignored: Ignored | None = None, **fields: Any) -> Generation:
    hello = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "messages": hello, **fields}).encode()
    return generation_of(decode_chat(body, ignored or Ignored()))


def constraint(**fields: Any) -> Constraint | None:
    completion = json.dumps({"model": "m", "prompt": "Hi", **fields}).encode()
    found = generation(**fields).constraint
    assert of_completion(decode_completion(completion, Ignored())).constraint == found
    return found


def told(**fields: Any) -> list[str]:
    ignored = Ignored()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    decode_chat(json.dumps(body).encode(), ignored)
    return ignored.names


def refusal(**fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        generation(Ignored(refuse_unknown=True), **fields)
    assert caught.value.status == 400
    return caught.value


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", **fields}}


class TestResponseFormat:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, None),
            ({"type": "text"}, None),
            ({"type": "json_object"}, StructuredOutput("json_object")),
            (json_schema(schema=SCHEMA), StructuredOutput("json", AS_TEXT)),
            (
                json_schema(schema=SCHEMA, strict=False, description="d"),
                StructuredOutput("json", AS_TEXT),
            ),
            (
                {"type": "structural_tag", "format": {"type": "any_text"}},
                StructuredOutput(
                    "structural_tag", '{"type": "structural_tag", "format": {"type": "any_text"}}'
                ),
            ),
            (
                {"type": "structural_tag", "structures": [{"begin": "<"}], "triggers": ["<"]},
                StructuredOutput(
                    "structural_tag",
                    '{"type": "structural_tag", "structures": [{"begin": "<"}], "triggers": ["<"]}',
                ),
            ),
        ],
    )
    def test_forms(self, given, expected):
        assert constraint(response_format=given) == (expected and (expected, "response_format"))

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            ("text", ""),
            ({}, ".type"),
            ({"type": "xml"}, ".type"),
            ({"type": "json_schema"}, ".json_schema"),
            ({"type": "json_schema", "json_schema": {"schema": {}}}, ".json_schema.name"),
            (json_schema(), ".json_schema.schema"),
            (json_schema(schema=[]), ".json_schema.schema"),
            (json_schema(schema="{}"), ".json_schema.schema"),
            (json_schema(schema=DEEP), ".json_schema.schema"),
            (json_schema(schema={"minimum": 10**30}), ".json_schema.schema"),
            (json_schema(schema=SCHEMA, extra=1), ".json_schema.extra"),
            ({"type": "json_object", "schema": SCHEMA}, ".schema"),
            ({"type": "structural_tag"}, ""),
            ({"type": "structural_tag", "structures": []}, ""),
            ({"type": "structural_tag", "format": {}, "triggers": []}, ""),
            ({"type": "structural_tag", "format": DEEP}, ""),
        ],
    )
    def test_a_bad_one_is_named(self, given, param):
        assert refusal(response_format=given).param == f"response_format{param}"

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ({"type": "json_object", "json_schema": {"name": "n"}}, "json_schema"),
            ({"type": "text", "format": {}}, "format"),
            ({**json_schema(schema=SCHEMA), "triggers": []}, "triggers"),
        ],
    )
    def test_what_belongs_to_another_type_is_told(self, given, name):
        assert told(response_format=given) == [f"response_format.{name}"]

    def test_the_name_of_a_schema_may_be_empty(self):
        constrained = constraint(response_format=json_schema(name="", schema=SCHEMA))
        assert constrained == (StructuredOutput("json", AS_TEXT), "response_format")


class TestStructuredOutputs:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"json": SCHEMA}, StructuredOutput("json", AS_TEXT)),
            ({"json": json.dumps(SCHEMA)}, StructuredOutput("json", AS_TEXT)),
            (
                {"json": SCHEMA, "disable_any_whitespace": True},
                StructuredOutput("json", AS_TEXT, True),
            ),
            ({"json_object": True, "whitespace_pattern": ""}, StructuredOutput("json_object")),
            ({"regex": "[ab]+"}, StructuredOutput("regex", "[ab]+")),
            ({"regex": ""}, StructuredOutput("regex", "")),
            ({"choice": ["a", "b"]}, StructuredOutput("choice", ["a", "b"])),
            ({"grammar": 'root ::= "a"'}, StructuredOutput("grammar", 'root ::= "a"')),
            ({"structural_tag": '{"a": 1}'}, StructuredOutput("structural_tag", '{"a": 1}')),
            (
                {"regex": "a", "disable_any_whitespace": False, "json": None},
                StructuredOutput("regex", "a"),
            ),
            (
                {"choice": ["a"], "disable_any_whitespace": True},
                StructuredOutput("choice", ["a"]),
            ),
            (
                {"json": SCHEMA, "disable_additional_properties": True},
                StructuredOutput("json", AS_TEXT),
            ),
        ],
    )
    def test_forms(self, given, expected):
        (field,) = (f"structured_outputs.{name}" for name in given if name == expected.kind)
        assert constraint(structured_outputs=given) == (expected, field)

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            ({}, ""),
            ({"json": SCHEMA, "regex": "a"}, ""),
            ({"choice": ["a"], "grammar": "g"}, ""),
            ({"disable_any_whitespace": True}, ""),
            ({"json": "{"}, ".json"),
            ({"json": ""}, ".json"),
            ({"json": "[]"}, ".json"),
            ({"json": "[" * 100_000}, ".json"),
            ({"json": DEEP}, ".json"),
            ({"json": json.dumps(DEEP)}, ".json"),
            ({"json_object": False}, ".json_object"),
            ({"choice": []}, ".choice"),
            ({"choice": [""]}, ".choice[0]"),
            ({"choice": [1]}, ".choice[0]"),
            ({"regex": "a\0"}, ".regex"),
            ({"grammar": ""}, ".grammar"),
            ({"structural_tag": "x"}, ".structural_tag"),
            ({"structural_tag": {"a": 1}}, ".structural_tag"),
            ({"guided": 1}, ".guided"),
        ],
    )
    def test_a_bad_one_is_named(self, given, param):
        assert refusal(structured_outputs=given).param == f"structured_outputs{param}"

    def test_white_space_is_told(self):
        outputs = {"json": {}, "whitespace_pattern": " "}
        assert told(structured_outputs=outputs) == ["structured_outputs.whitespace_pattern"]


class TestConflicts:
    def test_not_both_ways_at_once(self):
        error = refusal(response_format={"type": "json_object"}, structured_outputs={"regex": "a"})
        assert error.param == "structured_outputs"
        assert constraint(response_format={"type": "text"}, structured_outputs={"regex": "a"})

    @pytest.mark.parametrize(
        "choice", ["required", {"type": "function", "function": {"name": "f"}}]
    )
    def test_a_demanded_call_leaves_none(self, choice):
        fields = {"tools": TOOLS, "tool_choice": choice}
        assert told(structured_outputs={"regex": "a"}, **fields) == ["structured_outputs"]
        # A response format has no say then, as with OpenAI and vLLM.
        generation(response_format={"type": "json_object"}, **fields)

    @pytest.mark.parametrize("choice", ["auto", "none", None])
    def test_with_tools_that_need_not_be_called(self, choice):
        asked = generation(structured_outputs={"regex": "a"}, tools=TOOLS, tool_choice=choice)
        assert asked.constraint == (StructuredOutput("regex", "a"), "structured_outputs.regex")
