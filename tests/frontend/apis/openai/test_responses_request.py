"""What the Responses API takes, and the chat request that comes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.apis.openai.responses_cases import (
    INVALID,
    LOGPROBS,
    REFUSED,
    SCHEMA,
    SERVED,
    TIME,
    UNKNOWN,
    USER,
    WEATHER,
    WITHOUT_EFFECT,
)
from vgate.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
    UnsupportedParameterError,
    VGateError,
)
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.responses.echo import response_to
from vgate.frontend.apis.openai.responses.request import Accepted, ResponsesRequest
from vgate.frontend.apis.openai.responses.translate import Asked, decode_asked
from vgate.wire.sampling import DEFAULTS, FIELDS

MINIMAL: dict[str, Any] = {"model": "m", "input": "Hi"}


def asked(**fields: Any) -> Asked:
    return decode_asked(json.dumps({**MINIMAL, **fields}).encode())


def chat(**fields: Any) -> dict[str, Any]:
    """Return what differs of the chat request from one with nothing but a model."""
    given: dict[str, Any] = msgspec.to_builtins(asked(**fields).chat)
    empty = msgspec.to_builtins(msgspec.convert({"model": "m", "messages": [USER]}, ChatRequest))
    given = {name: value for name, value in given.items() if value != empty.get(name)}
    if "stream_options" in given:
        given["stream_options"] = {k: v for k, v in given["stream_options"].items() if v}
    return given


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    built: list[dict[str, Any]] = msgspec.to_builtins(asked(input=list(items), **fields).chat)[
        "messages"
    ]
    return [{k: v for k, v in message.items() if v is not None} for message in built]


def refusal(**fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        asked(**fields)
    assert caught.value.status == 400
    return caught.value


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(("fields", "expected"), SERVED)
def test_served(fields, expected):
    assert chat(**fields) == expected


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_without_effect(name):
    assert chat(**{name: WITHOUT_EFFECT[name]}) == {}


@pytest.mark.parametrize(("fields", "path"), REFUSED)
def test_refused_by_name(fields, path):
    error = refusal(**fields)
    assert isinstance(error, UnsupportedParameterError)
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(("fields", "path"), INVALID)
def test_invalid(fields, path):
    error = refusal(**fields)
    assert isinstance(error, InvalidValueError)
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(("fields", "path"), UNKNOWN)
def test_unknown(fields, path):
    error = refusal(**fields)
    assert isinstance(error, UnknownParameterError)
    assert error.param == path


def test_every_field_is_in_one_of_these_tables():
    told = {name for fields, _ in [*SERVED, *REFUSED, *INVALID] for name in fields}
    assert set(ResponsesRequest.__struct_fields__) <= told | set(WITHOUT_EFFECT)
    assert set(FIELDS) - {"max_tokens"} <= {name for fields, _ in SERVED for name in fields}


def documented() -> list[tuple[str, str, Any]]:
    """Return the fields that the documentation has, what becomes of them, and an example."""
    docs = Path(__file__).parents[4] / "docs"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(docs.glob("api*.md")))
    (section,) = re.findall(r"^# Responses: .*?(?=^# |\Z)", text, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `(.*?)` \|", section, re.MULTILINE)
    return [(name, kind, json.loads(example)) for name, kind, example in rows]


def test_every_field_is_documented():
    names = [name for name, _, _ in documented()]
    assert sorted(names) == sorted(ResponsesRequest.__struct_fields__)


@pytest.mark.parametrize(("name", "kind", "example"), documented())
def test_a_field_is_what_the_documentation_says(name, kind, example):
    fields = {name: example, **({"stream": True} if name == "stream_options" else {})}
    if kind == "refused":
        assert refusal(**fields).param == name
    else:
        asked(**fields)
    assert (kind == "accepted") == (name in Accepted.__struct_fields__[len(FIELDS) :])


def test_refusals_say_what_to_do_instead():
    for name, value, instead in (
        ("previous_response_id", "r", "`input`"),
        ("max_tokens", 1, "`max_output_tokens`"),
        ("response_format", {}, "`text.format`"),
        ("reasoning_effort", "low", "`reasoning.effort`"),
    ):
        assert instead in refusal(**{name: value}).message
    assert "nothing is stored" in refusal(input=[{"id": "x"}]).message


class TestStructured:
    def test_a_schema(self):
        form = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
        shown = chat(text={"format": form})["response_format"]
        assert shown["type"] == "json_schema"
        assert shown["json_schema"] == {
            "name": "n",
            "schema": SCHEMA,
            "strict": True,
            "description": None,
        }

    def test_any_object(self):
        shown = chat(text={"format": {"type": "json_object"}})["response_format"]
        assert shown["type"] == "json_object"


class TestTools:
    def test_tools(self):
        tools = chat(tools=[WEATHER, {**TIME, "allowed_callers": ["direct"], "async": False}])[
            "tools"
        ]
        assert [tool["type"] for tool in tools] == ["function", "function"]
        assert [tool["function"] for tool in tools] == [
            {"name": "weather", "description": None, "parameters": SCHEMA, "strict": None},
            {"name": "time", "description": "Tells it.", "parameters": None, "strict": True},
        ]

    def test_a_named_one(self):
        choice = {"type": "function", "name": "time"}
        shown = chat(tools=[WEATHER, TIME], tool_choice=choice)["tool_choice"]
        assert shown["function"] == {"name": "time"}

    def test_allowed_ones(self):
        named = {"type": "function", "name": "time"}
        choice = {"type": "allowed_tools", "mode": "required", "tools": [named]}
        shown = chat(tools=[WEATHER, TIME], tool_choice=choice)["tool_choice"]
        assert shown["type"] == "allowed_tools"
        assert shown["allowed_tools"] == {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "time"}}],
        }


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm"}],
}
SAID = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Ho", "annotations": [], "logprobs": []}],
}


def calls_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: call[name] for name in ("id", "type", "function")} for call in message["tool_calls"]
    ]


class TestInput:
    def test_text(self):
        assert chat(input="Ho", instructions="Be.")["messages"] != []
        built = asked(input="Ho", instructions="Be.").chat.messages
        assert [(m.role, m.content) for m in built] == [("system", "Be."), ("user", "Ho")]

    def test_messages(self):
        parts = [
            {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "input_text", "text": "b"},
        ]
        built = messages(
            {"role": "developer", "content": "Be."},
            {"type": "message", "role": "user", "content": parts, "status": "completed"},
            {"role": "assistant", "content": "Ho", "phase": "commentary"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            {"role": "system", "content": "Now."},
        )
        assert [m["role"] for m in built] == [
            "developer", "user", "assistant", "assistant", "system",
        ]  # fmt: skip
        assert [p["text"] for p in built[1]["content"]] == ["a", "b"]
        assert built[2]["content"] == "Ho"
        assert built[3]["content"][0]["refusal"] == "No"

    def test_one_turn_of_the_model_is_one_message(self):
        (_, built, result, after) = messages(
            USER,
            THOUGHT,
            SAID,
            CALL,
            {**CALL, "call_id": "c2", "id": "fc_1", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            {"role": "user", "content": "And?"},
        )
        assert built["role"] == "assistant"
        assert built["reasoning_content"] == "Hm"
        assert built["content"][0]["text"] == "Ho"
        assert calls_of(built) == [CALLED, {**CALLED, "id": "c2"}]
        assert result == {"role": "tool", "tool_call_id": "c1", "content": "ok"}
        assert after["role"] == "user"

    def test_turns_are_told_apart(self):
        one, two, three, four = messages(SAID, THOUGHT, CALL, SAID, SAID)
        assert "reasoning_content" not in one
        assert (two["reasoning_content"], calls_of(two)) == ("Hm", [CALLED])
        assert "tool_calls" not in three
        assert "content" in three
        assert "content" in four

    def test_calls_after_results_are_another_turn(self):
        result = {"type": "function_call_output", "call_id": "c1", "output": "ok"}
        built = messages(USER, CALL, result, CALL, result)
        assert [m["role"] for m in built] == ["user", "assistant", "tool", "assistant", "tool"]

    def test_reasoning(self):
        more = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]}
        empty = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None}
        (built,) = messages(THOUGHT, empty, more)
        assert built == {"role": "assistant", "reasoning_content": "Hm\nSo"}
        (kept,) = messages({**THOUGHT, "encrypted_content": "x"})
        assert kept["reasoning_content"] == "Hm"

    def test_a_call_that_was_cut_goes_back_as_it_is(self):
        (built,) = messages({**CALL, "arguments": '{"a":', "status": "incomplete"})
        assert built["tool_calls"][0]["function"]["arguments"] == '{"a":'

    def test_results(self):
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        item = {"type": "function_call_output", "call_id": "c", "output": parts, "name": "f"}
        (built,) = messages(item)
        assert (built["role"], built["tool_call_id"], built["name"]) == ("tool", "c", "f")
        assert [p["text"] for p in built["content"]] == ["a", "b"]

    @pytest.mark.parametrize("status", ["incomplete", "in_progress"])
    def test_an_unfinished_last_message_is_gone_on_with(self, status):
        unfinished = {**SAID, "status": status}
        assert asked(input=[USER, unfinished]).chat.continue_final_message is True
        assert asked(input=[USER, unfinished, USER]).chat.continue_final_message is None
        assert asked(input=[USER, unfinished, CALL]).chat.continue_final_message is None
        assert asked(input=[USER, SAID]).chat.continue_final_message is None


class TestErrorsOfTheModel:
    """What is only found with the model at hand speaks of the client's fields too."""

    @pytest.mark.parametrize(
        ("of_chat", "of_client"),
        [
            ("messages", "input"),
            ("messages[0].content", "instructions"),
            ("messages[2].content[1].text", "input[1].content[1].text"),
            ("max_tokens", "max_output_tokens"),
            ("reasoning_effort", "reasoning.effort"),
            ("tools[0].function.parameters.$defs", "tools[0].parameters.$defs"),
            ("top_logprobs", "top_logprobs"),
        ],
    )
    def test_restated(self, of_chat, of_client):
        parts = [{"type": "input_text", "text": "x"}]
        items = [USER, {"role": "user", "content": parts}]
        sources = asked(instructions="Be.", input=items, tools=[WEATHER]).sources
        with pytest.raises(ContextLengthExceededError) as caught, sources.restating():
            raise ContextLengthExceededError(f"shorten `{of_chat}`", param=of_chat)
        assert caught.value.message == f"shorten `{of_client}`"
        assert caught.value.param == of_client

    def test_what_is_no_field_stays(self):
        message = "the model `Org/Name-7B` is not `messages-7b`"
        with pytest.raises(InvalidValueError) as caught, asked().sources.restating():
            raise InvalidValueError(message)
        assert (caught.value.message, caught.value.param) == (message, None)


class TestEcho:
    def test_defaults(self):
        shown = msgspec.to_builtins(response_to(asked(), "m", DEFAULTS))
        assert shown["model"] == "m"
        assert shown["temperature"] == shown["top_p"] == 1.0
        assert (shown["tool_choice"], shown["tools"]) == ("auto", [])
        assert shown["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
        assert shown["reasoning"] == {"effort": None, "summary": None}
        assert shown["metadata"] == {}
        assert shown["parallel_tool_calls"] is True
        assert shown["store"] is False

    def test_what_was_sent(self):
        sent = {
            "instructions": "Be.",
            "max_output_tokens": 5,
            "max_tool_calls": 3,
            "metadata": {"a": "b"},
            "parallel_tool_calls": False,
            "prompt_cache_key": "k",
            "safety_identifier": "s",
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "name": "weather"},
            "top_logprobs": 2,
            "include": [LOGPROBS],
            "user": "u",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            "reasoning": {"effort": "low"},
        }
        shown = msgspec.to_builtins(response_to(asked(**sent), "m", DEFAULTS))
        for name in set(sent) - {"include", "tools", "text", "reasoning"}:
            assert shown[name] == sent[name], name
        assert shown["tools"] == [{**WEATHER, "description": None, "strict": None}]
        assert shown["text"]["format"]["schema"] == SCHEMA
        assert shown["reasoning"]["effort"] == "low"


_text = st.text("ab.[`é", max_size=4)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_types = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "item_reference", "odd"]
)
_fields = st.sampled_from(
    ["role", "content", "type", "output", "call_id", "name", "arguments", "summary", "caller"]
)
_items = st.dictionaries(_fields, _json | _types | st.sampled_from(["user", "assistant"]))


@given(
    st.lists(_items, min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(list(ResponsesRequest.__struct_fields__)), _json, max_size=3),
)
@settings(max_examples=300)
def test_anything_else_is_refused_properly(items, fields):
    body = json.dumps({**MINIMAL, "input": items, **fields}).encode()
    try:
        decode_asked(body)
    except InvalidRequestError as error:
        name = (error.param or "model").split(".")[0].split("[")[0]
        assert name in ResponsesRequest.__struct_fields__
