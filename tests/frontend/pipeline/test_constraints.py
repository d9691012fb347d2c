"""Forms that are as large as they may be, and those that are larger."""

import json
from typing import Any

import pytest

from vgate.errors import InvalidValueError
from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation
from vgate.frontend.pipeline.constraints import calls_constraint


def props(count: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {str(n): {} for n in range(count)}, **more}


def names(count: int) -> list[str]:
    return [str(n) for n in range(count)]


SCHEMAS = {
    "optional": (props(1000), props(1001), "1001 optional"),
    "all required": (
        props(3000, required=names(3000)),
        props(8192, required=names(8192)),
        "objects",
    ),
    "few optional": (
        props(3000, required=names(2000)),
        props(3000, required=names(1998)),
        "1002 optional",
    ),
    "many objects": (
        {"anyOf": [props(100)] * 80},
        {"anyOf": [props(101)] * 100},
        "objects",
    ),
    "several large": ({"anyOf": [props(500)] * 4}, {"anyOf": [props(500)] * 5}, "1118 optional"),
    "a number of properties": (
        props(100, minProperties=50),
        props(101, minProperties=50),
        "1015 optional",
    ),
    "a low number": (props(1000, maxProperties=1), props(1000, maxProperties=2), "1414 optional"),
    "a negative number": (
        {"anyOf": [props(1000), props(2, maxProperties=-(10**9))]},
        {"anyOf": [props(1001), props(2, maxProperties=-(10**9))]},
        "1001 optional",
    ),
    "arrays": (
        {"items": {"minItems": 8192, "maxItems": 8192}, "minItems": 8192, "maxItems": -(10**9)},
        {"items": {"minItems": 8192}, "maxItems": 8193.0},
        "`minItems` and `maxItems`",
    ),
    "repeated patterns": (
        {"items": [{"pattern": "a*" * 1024, "patternProperties": {"b{2}" * 1024: {}}}]},
        {"anyOf": [{"pattern": "a?" * 1024}, {"patternProperties": {"b+" * 1025: {}}}]},
        "2049 quantifiers",
    ),
    "a long array": ({"type": "array", "minItems": 2**14}, {"minItems": 1e9}, "`minItems`"),
    "values": ({"enum": ["x" * 120] * 1000}, {"enum": ["x" * 120] * 1001}, "120120 characters"),
    "a value": ({"const": "x" * 120_000}, {"const": "x" * 120_001}, "120001 characters"),
    "a pattern": (
        {"items": {"pattern": "x" * 120_000}},
        {"items": {"pattern": "x" * 120_001}},
        "120001 characters",
    ),
    "a description": (
        {"items": [{"description": "x" * 1_000_000}]},
        {"items": [{"description": "x" * 524_288, "y" * 60_000: ["x" * 470_000]}]},
        "characters",
    ),
}
TEXTS = [("regex", "x"), ("grammar", "x"), ("choice", ["x" * 1024] * 64)]


def generation(**fields: Any) -> Generation:
    hello = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "messages": hello, **fields}).encode()
    return generation_of(decode_chat(body, Ignored()))


def refused(**fields: Any) -> InvalidValueError:
    with pytest.raises(InvalidValueError, match="too large") as caught:
        calls_constraint(generation(**fields).tools)
    assert f"`{caught.value.param}`" in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema(name: str):
    largest, larger, why = SCHEMAS[name]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": largest}}
    assert generation(response_format=form).constraint
    form["json_schema"] = {"name": "n", "schema": larger}
    error = refused(response_format=form)
    assert error.param == "response_format"
    assert why in error.message
    for schema in (larger, json.dumps(larger)):
        assert refused(structured_outputs={"json": schema}).param == "structured_outputs.json"
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": larger}}
    assert refused(response_format=tag).param == "response_format"
    outputs = {"structural_tag": json.dumps(tag)}
    assert refused(structured_outputs=outputs).param == "structured_outputs.structural_tag"


@pytest.mark.parametrize(("kind", "unit"), TEXTS)
def test_a_text(kind: str, unit: Any):
    largest: Any = unit if isinstance(unit, list) else unit * 65_536
    assert generation(structured_outputs={kind: largest}).constraint
    larger: Any = [*unit, "y"] if isinstance(unit, list) else largest + "y"
    error = refused(structured_outputs={kind: larger})
    assert error.param == f"structured_outputs.{kind}"
    assert "65537 characters, the most is 65536" in error.message


@pytest.mark.parametrize("kind", ["regex", "grammar"])
def test_what_repeats_much(kind: str):
    assert generation(structured_outputs={kind: "a?" * 2048}).constraint
    error = refused(structured_outputs={kind: "a?" * 2049})
    assert error.param == f"structured_outputs.{kind}"
    assert "2049 quantifiers, the most is 2048" in error.message


@pytest.mark.parametrize("kind", ["grammar", "regex"])
def test_a_structural_tag_that_repeats_much(kind: str):
    def asked(count: int) -> dict[str, Any]:
        part = {"type": kind, {"regex": "pattern"}.get(kind, kind): "a?" * count}
        tag = {"type": "tag", "begin": "<a>", "content": part, "end": "</a>"}
        return {"type": "structural_tag", "format": {"type": "sequence", "elements": [tag, tag]}}

    assert generation(response_format=asked(1024)).constraint
    assert "2050 quantifiers, the most is 2048" in refused(response_format=asked(1025)).message


def test_demanded_calls():
    def asked(schema: dict[str, Any], choice: Any) -> Any:
        function = {"name": "f", "parameters": schema}
        tools = [{"type": "function", "function": function}]
        return {"tools": tools, "tool_choice": choice}

    named = {"type": "function", "function": {"name": "f"}}
    for choice, param in ((named, "tools[0].function.parameters"), ("required", "tools")):
        assert calls_constraint(generation(**asked(props(900), choice)).tools)
        assert refused(**asked(props(1001), choice)).param == param
    # Nothing is made of the schemas of calls that are not demanded.
    assert calls_constraint(generation(**asked(props(1001), "auto")).tools) is None
