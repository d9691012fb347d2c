"""Messages requests say the same as the chat requests that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vgate.errors import ContextLengthExceededError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.anthropic.messages.request import MessagesRequest, decode_messages
from vgate.frontend.apis.anthropic.messages.translate import Translation
from vgate.frontend.apis.openai.chat.request import template_messages

HELLO = {"role": "user", "content": "Hi"}
TOOL = {
    "name": "look_up",
    "description": "Looks up.",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "look_up", "input": arguments}


def result(call_id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def decoded(**fields: Any) -> MessagesRequest:
    asked = {"model": "m", "max_tokens": 2000, "messages": [HELLO], **fields}
    return decode_messages(json.dumps(asked).encode())


def translated(**fields: Any) -> dict[str, Any]:
    """Return the fields of the chat request, beside the minimal ones."""
    translation = Translation(decoded(**fields))
    translation.chat_request()
    minimal = {"model": "m", "max_tokens": 2000, "messages": [HELLO]}
    return {k: v for k, v in translation.fields.items() if minimal.get(k) != v}


def conversation(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the messages as a chat template gets them."""
    request = Translation(decoded(messages=list(messages), **fields)).chat_request()
    return template_messages(request.messages)


def test_the_least():
    assert translated() == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0.0}),
        (
            {"temperature": 1.5, "top_p": 0.5, "top_k": 3},
            {"temperature": 1.5, "top_p": 0.5, "top_k": 3},
        ),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"stream": True}, {"stream": True}),
        ({"stream": False}, {"stream": False}),
        ({"metadata": {"user_id": "x"}, "service_tier": "standard_only"}, {}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": {"type": "object"}},
                }
            },
        ),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {"include_reasoning": False}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},
            {"include_reasoning": False},
        ),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
    ],
)
def test_fields(fields, expected):
    assert translated(**fields) == expected


def test_the_effort_goes_with_it():
    translation = Translation(decoded(), "low")
    assert translation.chat_request().reasoning_effort == "low"


CHAT_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up.",
        "parameters": TOOL["input_schema"],
        "strict": None,
    },
}


class TestTools:
    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (None, {}),
            ({"type": "auto"}, {"tool_choice": "auto"}),
            ({"type": "any"}, {"tool_choice": "required"}),
            ({"type": "none"}, {"tool_choice": "none"}),
            (
                {"type": "tool", "name": "look_up"},
                {"tool_choice": {"type": "function", "function": {"name": "look_up"}}},
            ),
            (
                {"type": "auto", "disable_parallel_tool_use": True},
                {"tool_choice": "auto", "parallel_tool_calls": False},
            ),
            ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        ],
    )
    def test_choices(self, choice, expected):
        fields = translated(tools=[TOOL], **({"tool_choice": choice} if choice else {}))
        assert fields == {"tools": [CHAT_TOOL], **expected}

    def test_strict(self):
        (tool,) = translated(tools=[{**TOOL, "strict": True}])["tools"]
        assert tool["function"]["strict"] is True


class TestConversation:
    def test_system(self):
        expected = [{"role": "system", "content": "Be brief."}, HELLO]
        assert conversation(HELLO, system="Be brief.") == expected
        assert conversation(HELLO, system=[text("Be brief.")]) == expected
        assert conversation({"role": "system", "content": "Be brief."}, HELLO) == expected

    @pytest.mark.parametrize("system", ["", []])
    def test_no_system(self, system):
        assert conversation(HELLO, system=system) == [HELLO]

    def test_system_of_both_kinds_is_one_message(self):
        found = conversation(
            {"role": "system", "content": "c"}, HELLO, system=[text("a"), text("b")]
        )
        assert found == [{"role": "system", "content": "a\nb\nc"}, HELLO]

    def test_system_in_between_stays_there(self):
        note = {"role": "system", "content": "Note."}
        assert conversation(HELLO, note, HELLO) == [HELLO, note, HELLO]

    def test_blocks_of_text(self):
        found = conversation({"role": "user", "content": [text("a"), text("b")]})
        assert found == [{"role": "user", "content": "a\nb"}]

    def test_an_empty_message(self):
        assert conversation({"role": "user", "content": []}) == [{"role": "user", "content": ""}]

    def test_the_same_role_twice_is_one_turn(self):
        found = conversation(HELLO, HELLO, {"role": "assistant", "content": "a"}, HELLO)
        assert [m["role"] for m in found] == ["user", "assistant", "user"]
        assert found[0]["content"] == "Hi\nHi"

    def test_thinking_and_calls(self):
        found = conversation(
            HELLO,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    text("One moment."),
                    use("call_1", q="a"),
                    use("call_2", q=["b"]),
                ],
            },
            {"role": "user", "content": [result("call_1", "A"), result("call_2", [text("B")])]},
        )
        assert found == [
            HELLO,
            {
                "role": "assistant",
                "content": "One moment.",
                "tool_calls": [
                    {
                        "id": f"call_{number}",
                        "type": "function",
                        "function": {"name": "look_up", "arguments": {"q": value}},
                    }
                    for number, value in ((1, "a"), (2, ["b"]))
                ],
                "reasoning": "Hm.",
                "reasoning_content": "Hm.",
            },
            {"role": "tool", "content": "A", "tool_call_id": "call_1"},
            {"role": "tool", "content": "B", "tool_call_id": "call_2"},
        ]

    def test_results_come_before_the_turn_s_text(self):
        found = conversation(
            HELLO,
            {"role": "assistant", "content": [use("a"), use("b")]},
            {"role": "user", "content": [result("a", "A"), text("And?")]},
            {"role": "user", "content": [text("Well?"), result("b", "B")]},
        )
        assert [(m["role"], m["content"]) for m in found[2:]] == [
            ("tool", "A"),
            ("tool", "B"),
            ("user", "And?\nWell?"),
        ]

    @pytest.mark.parametrize(
        ("content", "is_error", "expected"),
        [
            ("x", False, "x"),
            ("x", True, "Error: x"),
            (None, False, ""),
            (None, True, "Error: "),
            ([], False, ""),
            ([text("x"), text("y")], False, "x\ny"),
            ([text("x"), text("y")], True, "Error: x\ny"),
        ],
    )
    def test_contents_of_results(self, content, is_error, expected):
        found = conversation(
            HELLO,
            {"role": "assistant", "content": [use("a")]},
            {"role": "user", "content": [result("a", content, is_error=is_error)]},
        )
        assert found[-1] == {"role": "tool", "content": expected, "tool_call_id": "a"}

    def test_an_assistant_at_the_end_goes_on(self):
        fields = translated(messages=[HELLO, {"role": "assistant", "content": "The best is ("}])
        assert fields["continue_final_message"] is True
        assert fields["add_generation_prompt"] is False
        assert fields["messages"][-1]["content"] == "The best is ("


class TestErrors:
    def restated(self, path: str) -> str | None:
        translation = Translation(
            decoded(
                system="s",
                tools=[TOOL],
                messages=[
                    {"role": "user", "content": [text("a"), text("b")]},
                    {"role": "assistant", "content": [text("c"), use("1")]},
                    {"role": "user", "content": [result("1", [text("d"), text("e")]), text("f")]},
                ],
            )
        )
        error = translation.restated(InvalidValueError(f"`{path}` is wrong", param=path))
        assert error.message == f"`{error.param}` is wrong"
        return error.param

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("messages", "messages"),
            ("messages[0]", "system"),
            ("messages[0].content", "system"),
            ("messages[1].role", "messages[0].role"),
            ("messages[1].content[1].text", "messages[0].content[1].text"),
            ("messages[2].content", "messages[1].content[0]"),
            ("messages[2].tool_calls[0].id", "messages[1].content[1].id"),
            ("messages[2].tool_calls[0].function.name", "messages[1].content[1].name"),
            ("messages[2].tool_calls[0].function.arguments", "messages[1].content[1].input"),
            ("messages[3].tool_call_id", "messages[2].content[0].tool_use_id"),
            ("messages[3].content[1].text", "messages[2].content[0].content[1].text"),
            ("messages[4].content", "messages[2].content[1]"),
            ("tools", "tools"),
            ("tools[0].function.parameters.$defs", "tools[0].input_schema.$defs"),
            ("stop[3]", "stop_sequences[3]"),
            ("response_format.json_schema.schema", "output_config.format.schema"),
            ("reasoning_effort", "output_config.effort"),
            ("temperature", "temperature"),
        ],
    )
    def test_paths(self, path, expected):
        assert self.restated(path) == expected

    def test_the_kind_stays(self):
        translation = Translation(decoded())
        for kind in (ContextLengthExceededError, UnsupportedParameterError):
            error = translation.restated(kind("shorten the messages"))
            assert (type(error), error.message, error.param) == (kind, "shorten the messages", None)
