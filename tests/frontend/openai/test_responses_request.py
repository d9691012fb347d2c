"""What the Responses API takes, and the chat request that comes of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgate.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
    UnsupportedParameterError,
    VGateError,
)
from vgate.frontend.openai.requests import ChatRequest
from vgate.frontend.openai.responses_chat import Asked, decode_asked
from vgate.frontend.openai.responses_echo import response_to
from vgate.frontend.openai.responses_request import ResponsesRequest
from vgate.wire.sampling import DEFAULTS, FIELDS

MINIMAL: dict[str, Any] = {"model": "m", "input": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
WEATHER = {"type": "function", "name": "weather", "parameters": SCHEMA}
TIME = {"type": "function", "name": "time", "description": "Tells it.", "strict": True}
LOGPROBS = "message.output_text.logprobs"


def asked(**fields: Any) -> Asked:
    return decode_asked(json.dumps({**MINIMAL, **fields}).encode())


def chat(**fields: Any) -> dict[str, Any]:
    """Return what differs of the chat request from one with nothing but a model."""
    given: dict[str, Any] = msgspec.to_builtins(asked(**fields).chat)
    empty = msgspec.to_builtins(msgspec.convert({"model": "m", "messages": [USER]}, ChatRequest))
    return {name: value for name, value in given.items() if value != empty.get(name)}


USER = {"role": "user", "content": "Hi"}


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


SERVED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
    ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1.0, "frequency_penalty": -1.0}),
    ({"seed": 7, "top_k": 3, "min_p": 0.1}, {"seed": 7, "top_k": 3, "min_p": 0.1}),
    ({"repetition_penalty": 1.1, "ignore_eos": True}, {"repetition_penalty": 1.1, "ignore_eos": True}),
    ({"min_tokens": 2, "stop_token_ids": [5]}, {"min_tokens": 2, "stop_token_ids": [5]}),
    ({"logit_bias": {"5": 1}, "allowed_token_ids": [5]}, {"logit_bias": {5: 1.0}, "allowed_token_ids": [5]}),
    ({"stop": ["x"], "include_stop_str_in_output": True}, {"stop": ["x"], "include_stop_str_in_output": True}),
    ({"bad_words": ["x"], "cache_salt": "s", "priority": 1}, {"bad_words": ["x"], "cache_salt": "s", "priority": 1}),
    ({"skip_special_tokens": False, "spaces_between_special_tokens": False}, {"skip_special_tokens": False, "spaces_between_special_tokens": False}),
    ({"include_reasoning": False}, {"include_reasoning": False}),
    ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": {"enable_thinking": False}}),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, {"stream": True, "stream_options": {"include_usage": None, "continuous_usage_stats": None, "include_obfuscation": None}}),
    ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ({"reasoning": {"effort": "low", "summary": "auto", "context": "auto", "mode": "standard"}}, {"reasoning_effort": "low"}),
    ({"include": [LOGPROBS]}, {"logprobs": True, "top_logprobs": 0}),
    ({"include": [LOGPROBS], "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
    ({"truncation": "disabled", "background": False, "enable_response_messages": False}, {}),
    ({"tool_choice": "none"}, {"tool_choice": "none"}),
]  # fmt: skip
WITHOUT_EFFECT: dict[str, Any] = {
    "store": True,
    "metadata": {"a": "b"},
    "user": "u",
    "safety_identifier": "s",
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "implicit"},
    "session_id": "s",
    "max_tool_calls": 3,
    "include": [
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    ],
    "instructions": "",
    "tools": [],
}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"background": True}, "background"),
    ({"background_options": {"completion_window": "2h"}}, "background_options"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"context_management": []}, "context_management"),
    ({"access_programs": {}}, "access_programs"),
    ({"image": {}}, "image"),
    ({"moderation": {"model": "x"}}, "moderation"),
    ({"truncation": "auto"}, "truncation"),
    ({"enable_response_messages": True}, "enable_response_messages"),
    ({"previous_input_messages": []}, "previous_input_messages"),
    ({"messages": [USER]}, "messages"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ({"response_format": {"type": "text"}}, "response_format"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"logprobs": True}, "logprobs"),
    ({"n": 1}, "n"),
    ({"watermarking": True}, "watermarking"),
    ({"vllm_xargs": {"a": 1}}, "vllm_xargs"),
    ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
    ({"ec_transfer_params": {"a": 1}}, "ec_transfer_params"),
    ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
    ({"media_io_kwargs": {"a": {}}}, "media_io_kwargs"),
    ({"mm_payload": "none"}, "mm_payload"),
    ({"return_mm_kwargs": False}, "return_mm_kwargs"),
    ({"request_id": "r"}, "request_id"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"reasoning": {"generate_summary": "concise"}}, "reasoning.generate_summary"),
    ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"tools": [{"type": "web_search", "search_context_size": "low"}]}, "tools[0].type"),
    ({"tools": [WEATHER, {"type": "custom", "name": "x"}]}, "tools[1].type"),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [{**WEATHER, "async": True}]}, "tools[0].async"),
    ({"tools": [{**WEATHER, "output_schema": {}}]}, "tools[0].output_schema"),
    ({"tools": [{**WEATHER, "allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers"),
    ({"tools": [WEATHER], "tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}, "tool_choice.tools[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [USER, {"id": "msg_1"}]}, "input[1].type"),
    ({"input": [{"type": "web_search_call", "id": "x", "status": "completed"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]}, "input[0].output[0].type"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"}]}, "input[0].namespace"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "caller": {"type": "program"}}]}, "input[0].caller"),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
]  # fmt: skip
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"model": ""}, "model"),
    ({"model": 1}, "model"),
    ({"input": []}, "input"),
    ({"input": 1}, "input"),
    ({"input": ["Hi"]}, "input[0]"),
    ({"input": [{}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": "x", "status": "odd"}]}, "input[0].status"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "", "arguments": "{}"}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, "input[0].arguments"),
    ({"input": [USER, {"role": "assistant", "content": "x"}, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]}, "input[2].arguments"),
    ({"instructions": "Be.", "input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "1"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning", "content": [{"type": "odd", "text": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"instructions": 1}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1, "min_tokens": 2}, "min_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"stop": [""]}, "stop[0]"),
    ({"priority": "x"}, "priority"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"top_logprobs": -1, "include": [LOGPROBS]}, "top_logprobs"),
    ({"include": ["odd"]}, "include[0]"),
    ({"truncation": "odd"}, "truncation"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ({"reasoning": {"effort": "odd"}}, "reasoning.effort"),
    ({"text": {"format": {"type": "odd"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 2**70}}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_object"}}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"tools": [{"name": "weather"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{**WEATHER, "name": "no space"}]}, "tools[0].name"),
    ({"tools": [{**WEATHER, "parameters": {"a": 2**70}}]}, "tools[0].parameters"),
    ({"tool_choice": "odd"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "odd", "tools": []}}, "tool_choice.mode"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]}}, "tool_choice.tools"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
]  # fmt: skip
UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"odd": 1}, "odd"),
    ({"reasoning": {"odd": 1}}, "reasoning.odd"),
    ({"text": {"odd": 1}}, "text.odd"),
    ({"text": {"format": {"type": "text", "odd": 1}}}, "text.format.odd"),
    ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
    ({"tools": [{**WEATHER, "function": {}}]}, "tools[0].function"),
    ({"input": [USER, {**USER, "odd": 1}]}, "input[1].odd"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "odd": 1}]}]},
     "input[0].content[0].odd"),
    ({"structured_outputs": {"odd": 1}}, "structured_outputs.odd"),
]  # fmt: skip


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
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [],
           "content": [{"type": "reasoning_text", "text": "Hm"}]}  # fmt: skip
SAID = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "Ho", "annotations": [], "logprobs": []}]}  # fmt: skip


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
        ("message", "param", "expected", "path"),
        [
            ("shorten or lower `max_tokens`", "messages", "shorten or lower `max_output_tokens`", "input"),
            ("`reasoning_effort`: no", "reasoning_effort", "`reasoning.effort`: no", "reasoning.effort"),
            ("`messages[0].content` x", "messages[0].content", "`instructions` x", "instructions"),
            ("`messages[2].content[1].text`", "messages[2].content[1].text", "`input[1].content[1].text`", "input[1].content[1].text"),
            ("`tools[0].function.parameters.$defs`", "tools[0].function.parameters.$defs", "`tools[0].parameters.$defs`", "tools[0].parameters.$defs"),
            ("`top_logprobs` at most 3", "top_logprobs", "`top_logprobs` at most 3", "top_logprobs"),
            ("the model `Org/Name-7B` is not", None, "the model `Org/Name-7B` is not", None),
        ],
    )  # fmt: skip
    def test_restated(self, message, param, expected, path):
        parts = [{"type": "input_text", "text": "x"}]
        sources = asked(
            instructions="Be.", input=[USER, {"role": "user", "content": parts}], tools=[WEATHER]
        ).sources
        with pytest.raises(ContextLengthExceededError) as caught, sources.restating():
            raise ContextLengthExceededError(message, param=param)
        assert (caught.value.message, caught.value.param) == (expected, path)


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
        assert name in ResponsesRequest.__struct_fields__  # noqa: PT017
