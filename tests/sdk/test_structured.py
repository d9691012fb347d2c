"""Structured outputs with the official Python client."""

import json
from typing import Any

import openai
import pytest

from tests.sdk.conversation import MODEL, text_of, user

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JSON_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
}


def ask(client: openai.OpenAI, text: str, **params: Any) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=user(text), **params)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def test_text(client: openai.OpenAI):
    assert ask(client, "any text", response_format={"type": "text"}) == "any text"


def test_a_json_object(client: openai.OpenAI):
    form = {"type": "json_object"}
    assert json.loads(ask(client, '{"a": [1]}', response_format=form)) == {"a": [1]}
    assert isinstance(json.loads(ask(client, "no JSON", response_format=form)), dict)


def test_a_json_schema(client: openai.OpenAI):
    person = {"name": "Jürgen", "age": 7}
    assert json.loads(ask(client, json.dumps(person), response_format=JSON_SCHEMA)) == person
    made_up = json.loads(ask(client, '{"name": "x"}', response_format=JSON_SCHEMA))
    assert set(made_up) == {"name", "age"}


def test_a_streamed_json_schema(client: openai.OpenAI):
    chunks = client.chat.completions.create(
        model=MODEL, messages=user("x"), response_format=JSON_SCHEMA, stream=True
    )
    assert set(json.loads(text_of(chunks))) == {"name", "age"}


@pytest.mark.parametrize(
    ("outputs", "text", "expected"),
    [
        ({"json": SCHEMA}, '{"name": "x", "age": 1}', '{"name": "x", "age": 1}'),
        ({"json": json.dumps(SCHEMA)}, '{"name": "x", "age": 1}', '{"name": "x", "age": 1}'),
        ({"json_object": True}, "{}", "{}"),
        ({"choice": ["yes", "no"]}, "no", "no"),
        ({"choice": ["yes", "no"]}, "perhaps", "yes"),
        ({"regex": "[a-z]+@[a-z]+"}, "a@b", "a@b"),
    ],
    ids=str,
)
def test_vllms_structured_outputs(
    client: openai.OpenAI, outputs: dict[str, Any], text: str, expected: str
):
    assert ask(client, text, extra_body={"structured_outputs": outputs}) == expected


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "extra_body": {"structured_outputs": {"choice": ["a"]}},
            },
            "structured_outputs",
        ),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {"choice": []}}}, "structured_outputs.choice"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("hi"), **params)
    assert refused.value.param == param
