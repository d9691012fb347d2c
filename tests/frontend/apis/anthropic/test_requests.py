"""Which Messages requests are valid, and how errors name the others' fields."""

import json
from typing import Any

import pytest

from vgate.errors import (
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from vgate.frontend.apis.anthropic.messages.request import (
    MessagesRequest,
    decode_count_tokens,
    decode_messages,
)
from vgate.frontend.apis.anthropic.messages.translate import FIELDS, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation, Message
from vgate.wire.parameters import SamplingParams

HELLO = {"role": "user", "content": "Hi"}
TOOL = {"name": "look_up", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "call_1", "name": "look_up", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "found"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 2000, "messages": [HELLO], **fields}).encode()


def refusal(**fields: Any) -> InvalidRequestError:
    """Return the error of a request, from its decoding to the generation."""
    with pytest.raises(InvalidRequestError) as caught:
        translated(decode_messages(body(**fields), Ignored()))
    return caught.value


def translated(request: MessagesRequest) -> Generation:
    with FIELDS.translating():
        return generation_of(request)


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


def said(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


UNSUPPORTED = {
    "image": (
        {"messages": said({"type": "image", "source": {}})},
        "messages[0].content[0].type",
    ),
    "document": (
        {"messages": [HELLO, *said({"type": "text", "text": "x"}, {"type": "document"})]},
        "messages[1].content[1].type",
    ),
    "image in a result": (
        {"messages": said({**RESULT, "content": [{"type": "image", "source": {}}]})},
        "messages[0].content[0].content[0].type",
    ),
    "image in system": ({"system": [{"type": "image"}]}, "system[0].type"),
    "tool_choice": ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    "thinking": ({"thinking": {"type": "between_tools"}}, "thinking.type"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_an_unsupported_field_is_refused_by_name(case):
    fields, path = UNSUPPORTED[case]
    error = refusal(**fields)
    assert (type(error), error.param) == (UnsupportedParameterError, path)
    assert f"`{path}`" in error.message


# What a request is served without, and how the header names it.
TOLD = {
    "container": ({"container": "c"}, "container"),
    "mcp_servers": ({"mcp_servers": [{"url": "u"}]}, "mcp_servers"),
    "context_management": ({"context_management": {"edits": [{}]}}, "context_management"),
    "diagnostics": ({"diagnostics": {"previous_message_id": None}}, "diagnostics"),
    "inference_geo": ({"inference_geo": "us"}, "inference_geo"),
    "speed": ({"speed": "fast"}, "speed"),
    "server tool use": (
        {"messages": [*said({"type": "server_tool_use", "id": "1"}, role="assistant"), HELLO]},
        "messages[].content[].type=server_tool_use",
    ),
    "citations": (
        {"messages": said({"type": "text", "text": "x", "citations": [{}]})},
        "messages[].content[].citations",
    ),
    "citations in system": (
        {"system": [{"type": "text", "text": "x", "citations": [{}]}]},
        "system[].citations",
    ),
    "caller": (
        {"messages": [*said({**USE, "caller": {"type": "x"}}, role="assistant"), HELLO]},
        "messages[].content[].caller",
    ),
    "web search": (
        {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
        "tools[].type=web_search_20250305",
    ),
    "bash": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[].type=bash_20250124"),
    "callers": ({"tools": [{**TOOL, "allowed_callers": ["x"]}]}, "tools[].allowed_callers"),
    "deferred": ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[].defer_loading"),
    "examples": ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[].input_examples"),
    "beta": ({"betas": ["x"]}, "betas"),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_only_tunes_or_is_unknown_is_told(case):
    fields, name = TOLD[case]
    ignored = Ignored()
    translated(decode_messages(body(**fields), ignored))
    assert ignored.names == [name]


def test_cache_marks_need_no_notice():
    ignored = Ignored()
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    system = [{"type": "text", "text": "s", **mark}]
    translated(decode_messages(body(system=system, tools=[{**TOOL, **mark}], **mark), ignored))
    assert ignored.names == []


def test_without_a_tool_left_there_is_no_choice():
    fields = {"tools": [{"type": "bash_1", "name": "bash"}], "tool_choice": {"type": "any"}}
    ignored = Ignored()
    assert translated(decode_messages(body(**fields), ignored)).tools.mode == "none"
    assert ignored.names == ["tools[].type=bash_1", "tool_choice"]


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        ("x-anthropic-billing-header: cc_version=1; cch=5;\nBe brief.", "Be brief."),
        (
            [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=5;"},
                {"type": "text", "text": "Be brief."},
            ],
            "Be brief.",
        ),
        (
            "About x-anthropic-billing-header: it stays",
            "About x-anthropic-billing-header: it stays",
        ),
    ],
)
def test_the_line_for_billing_is_not_part_of_the_prompt(system, kept):
    messages = translated(decode_messages(body(system=system), Ignored())).prompt.messages
    assert messages[0] == Message("system", kept)


@pytest.mark.parametrize(
    "fields",
    [
        {"container": None, "mcp_servers": [], "context_management": {"edits": []}},
        {"context_management": {}, "diagnostics": None, "inference_geo": None},
        {"speed": "standard"},
        {"tools": [{**TOOL, "allowed_callers": ["direct"], "defer_loading": False}]},
        {"tools": [{**TOOL, "type": "custom", "input_examples": [], "cache_control": None}]},
        {"messages": said({"type": "text", "text": "x", "citations": []})},
        {"messages": [*said({**USE, "caller": {"type": "direct"}}, role="assistant"), HELLO]},
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "user_profile_id": "p"},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "workspace_id": "w"},
    ],
)
def test_neutral_values_are_accepted(fields):
    plain = generation_of(decode_messages(body(), Ignored()))
    generation = generation_of(decode_messages(body(**fields), Ignored()))
    concerned = {"prompt", "tools"} if fields.keys() & {"messages", "tools"} else set()
    for name in set(plain.__struct_fields__) - concerned:
        assert getattr(generation, name) == getattr(plain, name), name


@pytest.mark.parametrize(
    "last",
    [
        said(USE, role="assistant"),
        [*said(USE, role="assistant"), {"role": "assistant", "content": "x"}],
        said({"type": "text", "text": "x"}, USE, role="assistant"),
        [{"role": "assistant", "content": ""}],
        said(role="assistant"),
        said({"type": "thinking", "thinking": "x"}, role="assistant"),
    ],
)
def test_the_answer_continues_only_a_turn_with_text_and_no_call(last):
    prompt = translated(decode_messages(body(messages=[HELLO, *last]), Ignored())).prompt
    assert (prompt.continue_final_message, prompt.add_generation_prompt) == (False, True)
    assert prompt.messages[-1].role == "assistant"
    unfinished = [HELLO, *said({"type": "text", "text": "x"}, role="assistant")]
    prompt = translated(decode_messages(body(messages=unfinished), Ignored())).prompt
    assert (prompt.continue_final_message, prompt.add_generation_prompt) == (True, False)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tool_choice": {"type": "any"}}, ["tool_choice"]),
        ({"tool_choice": {"type": "tool", "name": "x"}}, ["tool_choice"]),
        ({"output_config": {"format": {"type": "json_schema"}}}, ["output_config.format"]),
        ({"output_config": {"format": {"schema": {"type": "object"}}}}, []),
        ({"thinking": {"type": "adaptive", "display": "updates"}}, []),
        ({"messages": [*said({"type": "redacted_thinking"}, role="assistant"), HELLO]}, []),
        ({"messages": said({"type": "tool_result", "content": "x"})}, []),
        ({"messages": [*said({"type": "tool_use", "name": "f"}, role="assistant"), HELLO]}, []),
        (
            {"messages": said({**RESULT, "content": [{"type": "tool_reference"}]})},
            ["messages[].content[].content[].type=tool_reference"],
        ),
    ],
)
def test_what_vllm_serves_is_served_and_told(fields, told):
    ignored = Ignored()
    translated(decode_messages(body(**fields), ignored))
    assert ignored.names == told


UNKNOWN = {
    "n": ({"n": 2}, "n"),
    "OpenAI's stop": ({"stop": ["x"]}, "stop"),
    "in a block": (
        {"messages": said({"type": "text", "text": "x", "weight": 1})},
        "messages[0].content[0].weight",
    ),
    "in a message": ({"messages": [{**HELLO, "name": "x"}]}, "messages[0].name"),
    "in a tool": ({"tools": [{**TOOL, "parameters": {}}]}, "tools[0].parameters"),
    "in thinking": (
        {"thinking": {"type": "disabled", "budget_tokens": 2000}},
        "thinking.budget_tokens",
    ),
    "in tool_choice": (
        {"tools": [TOOL], "tool_choice": {"type": "any", "name": "look_up"}},
        "tool_choice.name",
    ),
    "in output_config": ({"output_config": {"verbosity": 1}}, "output_config.verbosity"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_field_is_refused_by_name(case):
    fields, path = UNKNOWN[case]
    with pytest.raises(UnknownParameterError) as caught:
        decode_messages(body(**fields), Ignored(refuse_unknown=True))
    assert caught.value.param == path


def test_a_misspelled_field_gets_a_suggestion():
    with pytest.raises(UnknownParameterError, match="did you mean `max_tokens`"):
        decode_messages(body(max_token=3), Ignored(refuse_unknown=True))


INVALID = {
    "no messages": ({"messages": []}, "messages"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens"),
    "top_p": ({"top_p": 1.5}, "top_p"),
    "top_k": ({"top_k": -2}, "top_k"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "content": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "a block without a type": (
        {"messages": said({"text": "x"})},
        "messages[0].content[0].type",
    ),
    "text without text": ({"messages": said({"type": "text"})}, "messages[0].content[0].text"),
    "a call of the user": ({"messages": said(USE)}, "messages[0].content[0].type"),
    "thinking of the user": (
        {"messages": said({"type": "thinking", "thinking": "x", "signature": ""})},
        "messages[0].content[0].type",
    ),
    "a result of the assistant": (
        {"messages": said(RESULT, role="assistant")},
        "messages[0].content[0].type",
    ),
    "a call of the system": (
        {"messages": [*said(USE, role="system"), HELLO]},
        "messages[0].content[0].type",
    ),
    "empty stop sequence": ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
    "too many stop sequences": ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
    "name of a tool": ({"tools": [{**TOOL, "name": "x" * 257}]}, "tools[0].name"),
    "tool without a schema": ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    "too deep a schema": ({"tools": [{**TOOL, "input_schema": deep(70)}]}, "tools[0].input_schema"),
    "a tool that isn't there": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice.name",
    ),
    "id of a call": (
        {"messages": [*said({**USE, "id": "x" * 257}, role="assistant"), HELLO]},
        "messages[0].content[0].id",
    ),
    "too deep an input": (
        {
            "messages": [
                HELLO,
                *said({"type": "text", "text": "x"}, {**USE, "input": deep(70)}, role="assistant"),
                HELLO,
            ]
        },
        "messages[1].content[1].input",
    ),
    "input that is no object": (
        {"messages": [*said({**USE, "input": "x"}, role="assistant"), HELLO]},
        "messages[0].content[0].input",
    ),
    "id of a result": (
        {"messages": [HELLO, *said({**RESULT, "tool_use_id": 5})]},
        "messages[1].content[0].tool_use_id",
    ),
    "no budget": ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    "format": (
        {"output_config": {"format": {"type": "xml", "schema": {}}}},
        "output_config.format.type",
    ),
    "too deep a format": (
        {"output_config": {"format": {"type": "json_schema", "schema": deep(70)}}},
        "output_config.format.schema",
    ),
    "stream": ({"stream": "yes"}, "stream"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_field_has_the_name_of_this_api(case):
    fields, path = INVALID[case]
    error = refusal(**fields)
    assert (type(error), error.param) == (InvalidValueError, path)
    assert f"`{path}`" in error.message


@pytest.mark.parametrize("name", ["messages", "max_tokens"])
def test_required_fields(name):
    fields = json.loads(body())
    del fields[name]
    with pytest.raises(InvalidValueError, match=f"`{name}` is required"):
        decode_messages(json.dumps(fields).encode(), Ignored())


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"metadata": ' + b'{"a":' * 5000, b'{"model": "\xff"}']
)
def test_a_body_that_is_not_json(text):
    with pytest.raises(InvalidJSONError):
        decode_messages(text, Ignored())


@pytest.mark.parametrize("text", [b"[]", b"1", b'"x"', b"null"])
def test_a_body_that_is_not_an_object(text):
    with pytest.raises(InvalidValueError):
        decode_messages(text, Ignored())


class TestCountTokens:
    def test_fields_that_shape_the_prompt(self):
        request = decode_count_tokens(
            json.dumps(
                {"model": "m", "messages": [HELLO], "system": "s", "tools": [TOOL]}
            ).encode(),
            Ignored(),
        )
        generation = generation_of(request)
        assert generation.prompt.messages == [Message("system", "s"), Message("user", "Hi")]
        assert [function["name"] for function in generation.tools.functions] == ["look_up"]
        assert (generation.sampling, generation.stops) == (SamplingParams(), ())

    @pytest.mark.parametrize("name", ["max_tokens", "temperature", "stream", "stop_sequences"])
    def test_other_fields_are_unknown(self, name):
        with pytest.raises(UnknownParameterError) as caught:
            decode_count_tokens(
                json.dumps({"model": "m", "messages": [HELLO], name: 1}).encode(),
                Ignored(refuse_unknown=True),
            )
        assert caught.value.param == name

    def test_refusals_are_the_same(self):
        for fields, path in UNSUPPORTED.values():
            asked = {"model": "m", "messages": [HELLO], **fields}
            with pytest.raises(InvalidRequestError) as caught:
                decode_count_tokens(json.dumps(asked).encode(), Ignored())
            assert caught.value.param == path
