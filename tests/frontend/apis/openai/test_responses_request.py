"""Requests of the Responses API, and the generations that they become."""

import json
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.apis.documented import tables
from tests.frontend.apis.openai.responses_cases import (
    INVALID,
    LOGPROBS,
    REFUSED,
    SCHEMA,
    SERVED,
    TIME,
    TOLD,
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
from vgate.frontend.apis.fields import policies_of
from vgate.frontend.apis.openai.responses.request import (
    FIELDS,
    ResponsesRequest,
    decode_responses,
    generation_of,
)
from vgate.frontend.apis.openai.responses.response import response_to
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation
from vgate.wire.parameters import DEFAULTS, SamplingParams

MINIMAL: dict[str, Any] = {"model": "m", "input": "Hi"}


def decoded(ignored: Ignored | None = None, **fields: Any) -> ResponsesRequest:
    body = json.dumps({**MINIMAL, **fields}).encode()
    return decode_responses(body, ignored or Ignored())


def generation(ignored: Ignored | None = None, **fields: Any) -> Generation:
    ignored = ignored or Ignored()
    request = decoded(ignored, **fields)
    with FIELDS.translating():
        return generation_of(request, ignored)


def flat(found: Generation) -> dict[str, Any]:
    """Return the fields of a generation, of its prompt and of its sampling parameters."""
    parts = [found, found.prompt, found.sampling]
    return {
        name: getattr(part, name)
        for part in parts
        for name in part.__struct_fields__
        if name not in {"prompt", "sampling"}
    }


def differences(**fields: Any) -> dict[str, Any]:
    """Return what is another than in the generation of a request with nothing but a text."""
    plain = flat(generation())
    return {name: v for name, v in flat(generation(**fields)).items() if v != plain[name]}


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    """Return the messages, without what they don't have."""
    built = generation(input=list(items), **fields).prompt.messages
    return [
        {k: v for k, v in msgspec.to_builtins(message).items() if v not in (None, [], "")}
        for message in built
    ]


def refusal(ignored: Ignored | None = None, **fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        generation(ignored, **fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(("fields", "expected"), SERVED)
def test_served(fields, expected):
    assert differences(**fields) == expected


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_without_effect(name):
    assert differences(**{name: WITHOUT_EFFECT[name]}) == {}


@pytest.mark.parametrize(("fields", "path"), REFUSED)
def test_refused_by_name(fields, path):
    error = refusal(**fields)
    assert isinstance(error, UnsupportedParameterError)
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(("fields", "name"), TOLD)
def test_told(fields, name):
    ignored = Ignored()
    generation(ignored, **fields)
    assert ignored.names == [name]


@pytest.mark.parametrize(("fields", "path"), INVALID)
def test_invalid(fields, path):
    error = refusal(**fields)
    assert isinstance(error, InvalidValueError)
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(("fields", "path"), UNKNOWN)
def test_unknown(fields, path):
    error = refusal(Ignored(refuse_unknown=True), **fields)
    assert isinstance(error, UnknownParameterError)
    assert error.param == path


def test_every_field_is_in_one_of_these_tables():
    covered = {name for fields, _ in [*SERVED, *REFUSED, *TOLD, *INVALID] for name in fields}
    assert set(ResponsesRequest.__struct_fields__) <= covered | set(WITHOUT_EFFECT)
    assert set(SamplingParams.__struct_fields__) - {"max_tokens"} <= {
        name for fields, _ in SERVED for name in fields
    }


DOCUMENTED = tables()["responses"]


def test_every_field_is_documented():
    assert sorted(row.name for row in DOCUMENTED) == sorted(ResponsesRequest.__struct_fields__)


@pytest.mark.parametrize(("name", "kind", "example"), DOCUMENTED)
def test_a_field_is_what_the_documentation_says(name, kind, example):
    fields = {name: example, **({"stream": True} if name == "stream_options" else {})}
    if kind == "refused":
        assert refusal(**fields).param == name
    elif kind in {"accepted", "ignored"}:
        assert differences(**fields) == {}
    else:
        generation(**fields)
    assert kind == policies_of(ResponsesRequest)[name].kind


def test_refusals_say_what_to_do_instead():
    for name, value, instead in (
        ("conversation", "r", "`input`"),
        ("background", True, "`stream: true`"),
    ):
        assert instead in refusal(**{name: value}).message


class TestOtherTools:
    NAMESPACE: ClassVar = {
        "type": "namespace",
        "name": "mcp",
        "description": "d",
        "tools": [WEATHER],
    }
    PATCH: ClassVar = {
        "type": "custom",
        "name": "apply_patch",
        "description": "Edit files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
    }

    def test_the_functions_of_a_namespace_are_served_by_both_names(self):
        tools = generation(tools=[self.NAMESPACE]).tools
        assert [tool["name"] for tool in tools.functions] == ["mcp__weather"]

    def test_a_custom_tool_is_a_function_with_one_text(self):
        (function,) = generation(tools=[self.PATCH]).tools.functions
        assert function["name"] == "apply_patch"
        assert list(function["parameters"]["properties"]) == ["input"]
        assert "start: /.+/" in function["description"]

    @pytest.mark.parametrize(
        ("choice", "name"),
        [
            ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
            ({"type": "function", "name": "mcp__weather"}, "mcp__weather"),
            ({"type": "function", "name": "weather", "namespace": "mcp"}, "mcp__weather"),
            ({"type": "function", "name": "weather"}, "mcp__weather"),
        ],
    )
    def test_a_choice(self, choice, name):
        tools = generation(tools=[self.NAMESPACE, self.PATCH], tool_choice=choice).tools
        assert (tools.mode, tools.name) == ("named", name)

    def test_a_name_in_two_namespaces_chooses_none(self):
        spaces = [self.NAMESPACE, {**self.NAMESPACE, "name": "other"}]
        error = refusal(tools=spaces, tool_choice={"type": "function", "name": "weather"})
        assert error.param == "tool_choice.name"

    def test_a_response_repeats_what_can_be_served(self):
        request = decoded(tools=[self.NAMESPACE, self.PATCH, {"type": "web_search"}])
        tools = msgspec.to_builtins(response_to(request, "m", DEFAULTS, 7).tools)
        assert [(tool["type"], tool["name"]) for tool in tools] == [
            ("function", "weather"),
            ("custom", "apply_patch"),
        ]
        assert tools[0]["namespace"] == "mcp"
        assert "namespace" not in tools[1]

    def test_earlier_calls(self):
        call = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** x"}
        output = {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}
        other = {"type": "function_call", "call_id": "d", "name": "weather", "namespace": "mcp"}
        built = messages(call, {**other, "arguments": "{}"}, output)
        assert [call["name"] for call in built[0]["tool_calls"]] == ["apply_patch", "mcp__weather"]
        assert built[0]["tool_calls"][0]["arguments"] == {"input": "*** x"}
        assert built[1] == {"role": "tool", "content": "done", "tool_call_id": "c"}


class TestStructured:
    def test_a_schema(self):
        text_format = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
        (constraint,) = differences(text={"format": text_format}).values()
        assert (constraint.output.kind, json.loads(constraint.output.value)) == ("json", SCHEMA)

    def test_any_object(self):
        (constraint,) = differences(text={"format": {"type": "json_object"}}).values()
        assert constraint.output.kind == "json_object"

    def test_a_demanded_call_leaves_none(self):
        demanded = {"tools": [WEATHER], "tool_choice": "required"}
        ignored = Ignored()
        generation(ignored, structured_outputs={"regex": "a"}, **demanded)
        assert ignored.names == ["structured_outputs"]
        text_format = {"type": "json_object"}
        assert generation(text={"format": text_format}, **demanded).tools.mode == "required"

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ({"type": "json_object"}, "json_object"),
            ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "json"),
        ],
    )
    def test_the_format_of_chat_completions(self, given, kind):
        (constraint,) = differences(response_format=given).values()
        assert constraint.output.kind == kind
        assert differences(response_format={"type": "text"}) == {}
        own = {"text": {"format": {"type": "text"}}}
        assert differences(response_format=given, **own) == {}


class TestTools:
    def test_tools(self):
        time = {**TIME, "allowed_callers": ["direct"], "async": False}
        tools = generation(tools=[WEATHER, time]).tools
        assert (tools.mode, tools.name, tools.parallel) == ("auto", None, True)
        assert [tool["type"] for tool in tools.tools] == ["function", "function"]
        assert tools.functions == [
            {"name": "weather", "description": None, "parameters": SCHEMA},
            {"name": "time", "description": "Tells it.", "parameters": None, "strict": True},
        ]

    def test_a_named_one(self):
        choice = {"type": "function", "name": "time"}
        tools = generation(tools=[WEATHER, TIME], tool_choice=choice).tools
        assert (tools.mode, tools.name) == ("named", "time")
        assert len(tools.functions) == 2

    def test_demanded_ones(self):
        assert generation(tools=[WEATHER], tool_choice="required").tools.mode == "required"

    def test_allowed_ones(self):
        named = {"type": "function", "name": "time"}
        choice = {"type": "allowed_tools", "mode": "required", "tools": [named]}
        tools = generation(tools=[WEATHER, TIME], tool_choice=choice).tools
        assert tools.mode == "required"
        assert [function["name"] for function in tools.functions] == ["time"]


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
CALLED = {"id": "c1", "name": "f", "arguments": {"a": 1}}
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


class TestInput:
    def test_text(self):
        built = generation(input="Ho", instructions="Be.").prompt.messages
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
            "system", "user", "assistant", "assistant", "system",
        ]  # fmt: skip
        assert built[1]["content"] == "a\nb"
        assert built[2]["content"] == "Ho"
        assert built[3]["content"] == "No"

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
        assert built["reasoning"] == "Hm"
        assert built["content"] == "Ho"
        assert built["tool_calls"] == [CALLED, {**CALLED, "id": "c2"}]
        assert result == {"role": "tool", "tool_call_id": "c1", "content": "ok"}
        assert after["role"] == "user"

    def test_turns_stay_apart(self):
        one, two, three, four = messages(SAID, THOUGHT, CALL, SAID, SAID)
        assert "reasoning" not in one
        assert (two["reasoning"], two["tool_calls"]) == ("Hm", [CALLED])
        assert "content" not in two
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
        assert built == {"role": "assistant", "reasoning": "Hm\nSo"}
        (kept,) = messages({**THOUGHT, "encrypted_content": "x"})
        assert kept["reasoning"] == "Hm"

    def test_a_call_that_was_cut_goes_back_as_it_is(self):
        (built,) = messages({**CALL, "arguments": '{"a":', "status": "incomplete"})
        assert built["tool_calls"][0]["arguments"] == '{"a":'

    def test_results(self):
        parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        item = {"type": "function_call_output", "call_id": "c", "output": parts, "name": "f"}
        (built,) = messages(item)
        assert (built["role"], built["tool_call_id"], built["name"]) == ("tool", "c", "f")
        assert built["content"] == "a\nb"

    @pytest.mark.parametrize("status", ["incomplete", "in_progress"])
    def test_an_unfinished_last_message_is_gone_on_with(self, status):
        unfinished = {**SAID, "status": status}
        for items, continued in (
            ([USER, unfinished], True),
            ([USER, unfinished, USER], False),
            ([USER, unfinished, CALL], False),
            ([USER, SAID], False),
        ):
            prompt = generation(input=items).prompt
            assert prompt.continue_final_message is continued
            assert prompt.add_generation_prompt is not continued


class TestErrorsOfTheModel:
    """What is only found with the model at hand speaks of the client's fields too."""

    @pytest.mark.parametrize(
        ("of_chat", "of_client"),
        [
            ("messages", "input"),
            ("max_tokens", "max_output_tokens"),
            ("reasoning_effort", "reasoning.effort"),
            ("logprobs", "include"),
            ("response_format", "text.format"),
            ("tools[0].function.parameters.$defs", "tools[0].parameters.$defs"),
            ("tools[12].function", "tools[12]"),
            ("top_logprobs", "top_logprobs"),
        ],
    )
    def test_translated(self, of_chat, of_client):
        with pytest.raises(ContextLengthExceededError) as caught, FIELDS.translating():
            raise ContextLengthExceededError(f"shorten `{of_chat}`", param=of_chat)
        assert caught.value.message == f"shorten `{of_client}`"
        assert caught.value.param == of_client

    def test_what_is_no_field_stays(self):
        message = "the model `Org/Name-7B` is not `messages-7b`"
        with pytest.raises(InvalidValueError) as caught, FIELDS.translating():
            raise InvalidValueError(message)
        assert (caught.value.message, caught.value.param) == (message, None)


class TestEcho:
    def test_defaults(self):
        response = msgspec.to_builtins(response_to(decoded(), "m", DEFAULTS, 7))
        assert response["model"] == "m"
        assert response["temperature"] == response["top_p"] == 1.0
        assert (response["tool_choice"], response["tools"]) == ("auto", [])
        assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
        assert response["reasoning"] == {"effort": None, "summary": None}
        assert response["metadata"] == {}
        assert response["parallel_tool_calls"] is True
        assert response["store"] is False

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
        response = msgspec.to_builtins(response_to(decoded(**sent), "m", DEFAULTS, 7))
        for name in set(sent) - {"include", "tools", "text", "reasoning"}:
            assert response[name] == sent[name], name
        assert response["tools"] == [{**WEATHER, "description": None, "strict": None}]
        assert response["text"]["format"]["schema"] == SCHEMA
        assert response["reasoning"]["effort"] == "low"


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
        request = decode_responses(body, Ignored())
        with FIELDS.translating():
            generation_of(request, Ignored())
    except InvalidRequestError as error:
        name = (error.param or "model").split(".")[0].split("[")[0]
        assert name in ResponsesRequest.__struct_fields__
