"""Messages: what they may hold, and what chat templates get of them."""

import json
from typing import Any

import pytest

from vgate.errors import InvalidRequestError, VGateError
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline.render import template_message

HI = {"role": "user", "content": "Hi"}


def decode(*messages: dict[str, Any]) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": messages}).encode(), Ignored())


def told(*messages: dict[str, Any]) -> list[str]:
    """Return the fields that messages are served without."""
    ignored = Ignored()
    decode_chat(json.dumps({"model": "m", "messages": messages}).encode(), ignored)
    return ignored.names


def refusal(*messages: dict[str, Any]) -> VGateError:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        decode_chat(body, Ignored(refuse_unknown=True))
    assert caught.value.status == 400
    return caught.value


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def call(arguments: Any = "{}", **fields: Any) -> dict[str, Any]:
    return {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": arguments},
        **fields,
    }


def converted(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    conversation = generation_of(decode(*messages)).prompt
    return [template_message(message) for message in conversation.messages]


class TestRoles:
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
    def test_roles(self, role):
        decode({"role": role, "content": "x"})

    def test_the_role_of_functions_is_the_one_of_tools(self):
        messages = converted(HI, {"role": "function", "name": "f", "content": "x"})
        assert messages[1] == {"role": "tool", "content": "x", "name": "f"}

    def test_the_template_gets_other_roles_as_they_are(self):
        assert converted({"role": "bot", "content": "x"}) == [{"role": "bot", "content": "x"}]

    @pytest.mark.parametrize("role", ["", None, 5, "x" * 65])
    def test_other_roles_are_invalid(self, role):
        assert refusal({"role": role, "content": "x"}).param == "messages[0].role"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "x", "extra": 1}, "messages[0].extra"),
        ({"role": "user", "content": [5]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "messages[0].content[0].text",
        ),
    ],
)
def test_a_bad_message_is_named(message, param):
    assert refusal(message).param == param


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ({"role": "assistant", "content": "x", "function_call": {}}, ["function_call"]),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, ["audio"]),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, ["tool_call_id"]),
        ({"role": "user", "content": "x", "tool_calls": [call()]}, ["tool_calls"]),
        ({"role": "user", "content": "x", "reasoning": "y"}, ["reasoning"]),
        ({"role": "system", "content": "x", "refusal": "y"}, ["refusal"]),
        ({"role": "user", "content": "x", "extra": 1}, ["extra"]),
        ({"role": "assistant", "content": "x", "reasoning_details": [1]}, ["reasoning_details"]),
        (
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "y"}]},
            ["content[].thinking"],
        ),
    ],
)
def test_what_a_message_is_served_without_is_told(message, names):
    assert told(HI, message) == [f"messages[].{name}" for name in names]
    (_, message) = converted(HI, message)
    assert message["content"] in {"x", ""}
    assert message.keys() == {"role", "content"}


@pytest.mark.parametrize("role", ["user", "assistant", "tool", "system"])
@pytest.mark.parametrize("fields", [{}, {"content": None}, {"content": []}])
def test_content_may_be_left_out(role, fields):
    assert converted({"role": role, **fields}) == [{"role": role, "content": ""}]
    assert told({"role": role, **fields}) == []


@pytest.mark.parametrize("kind", [{}, {"type": "input_text"}, {"type": "output_text"}])
def test_text_has_several_types(kind):
    messages = converted({"role": "user", "content": [{"text": "x", **kind}]})
    assert messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({"id": "1"}, "function"),
        ({"id": "1", "function": {"arguments": "{}"}}, "function.name"),
        ({"id": "1", "function": {"name": ""}}, "function.name"),
        ({"id": "1", "function": {"name": "f", "arguments": 5}}, "function.arguments"),
        ({"id": "1", "type": "custom"}, "custom"),
        ({"id": "1", "type": "custom", "custom": {"input": "x"}}, "custom.name"),
        ({"id": "1", "type": "mcp", "function": {"name": "f"}}, "type"),
        ({"id": "1", "function": {"name": "f"}, "extra": 1}, "extra"),
        (call('{"a": %s}' % ("[" * 90 + "]" * 90)), "function.arguments"),
        (call('{"a": 123456789012345678901234567890}'), "function.arguments"),
    ],
)
def test_a_bad_tool_call_is_named(bad, param):
    error = refusal(HI, calling(call(), bad))
    assert error.param == f"messages[1].tool_calls[1].{param}"


def test_a_call_of_a_custom_tool_has_one_text():
    made = {"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}
    (_, message) = converted(HI, calling(made))
    (call,) = message["tool_calls"]
    assert call["id"] == "1"
    assert call["function"] == {"name": "f", "arguments": {"input": "x"}}


def test_a_reference_to_a_tool_is_left_out_and_told():
    message = {"role": "user", "content": [{"type": "tool_reference", "name": "f"}, {"text": "x"}]}
    assert converted(message) == [{"role": "user", "content": "x"}]
    assert told(message) == ["messages[].content[].tool_reference"]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", ""])
def test_other_media_are_refused(kind):
    parts = [{"type": "text", "text": "x"}, {"type": kind, kind or "x": {"url": "data:"}}]
    error = refusal({"role": "user", "content": parts})
    assert (error.code, error.param) == ("unsupported_parameter", "messages[0].content[1].type")


def test_a_part_with_a_refusal():
    part = {"type": "refusal", "refusal": "no"}
    assert converted({"role": "assistant", "content": [part]}) == [
        {"role": "assistant", "content": "no"}
    ]
    missing = {"role": "assistant", "content": [{"type": "refusal"}]}
    assert refusal(missing).param == "messages[0].content[0].refusal"


def test_what_templates_get_of_a_plain_conversation():
    assert converted(
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "text", "name": "alice"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": None},
    ) == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "text", "name": "alice"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    ]


def test_what_templates_get_of_tool_calls():
    made = calling(call('{"city": "Ulm", "n": [1]}'), call(None, id="call_2"), call(" "))
    result = {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": [{"type": "text", "text": "sunny"}],
    }
    assistant, tool = converted(made, result)
    assert assistant["content"] == ""
    assert [c["function"]["arguments"] for c in assistant["tool_calls"]] == [
        {"city": "Ulm", "n": [1]},
        {},
        {},
    ]
    assert assistant["tool_calls"][1] == {
        "id": "call_2",
        "type": "function",
        "function": {"name": "f", "arguments": {}},
    }
    assert tool == {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}


@pytest.mark.parametrize("text", ["{", "[]", "5", "null", '{"a": NaN}', '{"a":' * 10_000])
def test_arguments_that_are_no_object_stay_text(text):
    # An agent tells its model of a call that went wrong, and has to show it.
    assert converted(calling(call(text)))[0]["tool_calls"][0]["function"]["arguments"] == text


def test_arguments_may_be_an_object():
    assert converted(calling(call({"a": 1})))[0]["tool_calls"][0]["function"]["arguments"] == {
        "a": 1
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "b"}, "b"),
        ({"reasoning": "a", "reasoning_content": "b"}, "a"),
        ({"reasoning": "", "reasoning_content": "b"}, ""),
    ],
)
def test_reasoning_has_both_of_its_names(fields, text):
    assert converted({"role": "assistant", "content": "x", **fields}) == [
        {"role": "assistant", "content": "x", "reasoning": text, "reasoning_content": text}
    ]


def test_who_thinks_or_refuses_need_not_speak():
    assert converted({"role": "assistant", "reasoning": "hm"})[0]["content"] == ""
    assert converted({"role": "assistant", "content": None, "refusal": "no"})[0]["content"] == "no"


def test_what_clients_send_back_of_an_answer_is_taken():
    # As the openai package dumps a message, and as clients put a stream together.
    decode(
        HI,
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": [{**call(), "index": 0}],
        },
        {"role": "tool", "tool_call_id": "not of an earlier call", "content": "x"},
    )
