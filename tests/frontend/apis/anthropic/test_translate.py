"""The generation that a Messages request asks for."""

import json
from typing import Any

import pytest

from vgate.errors import ContextLengthExceededError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.anthropic.messages.request import MessagesRequest, decode_messages
from vgate.frontend.apis.anthropic.messages.translate import FIELDS, generation_of
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation
from vgate.frontend.pipeline.render import template_message
from vgate.wire.parameters import SamplingParams

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
    return decode_messages(json.dumps(asked).encode(), Ignored())


def generation(**fields: Any) -> Generation:
    return generation_of(decoded(**fields))


def differences(**fields: Any) -> dict[str, Any]:
    """Return the fields that differ from the generation of the smallest request."""
    found, plain = generation(**fields), generation()
    return {
        name: getattr(found, name)
        for name in Generation.__struct_fields__
        if getattr(found, name) != getattr(plain, name)
    }


def conversation(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """Return the messages as a chat template gets them."""
    found = generation(messages=list(messages), **fields).prompt
    return [template_message(message) for message in found.messages]


def test_variables_of_the_template_are_the_prompts():
    ignored = Ignored()
    given = {"enable_thinking": False, "documents": [1]}
    found = generation_of(decoded(chat_template_kwargs=given), None, ignored).prompt
    assert found.template_kwargs == {"enable_thinking": False}
    assert ignored.names == ["chat_template_kwargs.documents"]


def test_the_smallest_request():
    found = generation()
    assert found.model == "m"
    assert conversation(HELLO) == [HELLO]
    assert found.prompt.add_generation_prompt
    assert not found.prompt.continue_final_message
    assert found.sampling == SamplingParams(max_tokens=2000)
    assert found == Generation(model="m", prompt=found.prompt, sampling=found.sampling)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 7}, {"sampling": SamplingParams(max_tokens=7)}),
        ({"temperature": 0}, {"sampling": SamplingParams(max_tokens=2000, temperature=0.0)}),
        (
            {"temperature": 1.5, "top_p": 0.5, "top_k": 3},
            {"sampling": SamplingParams(max_tokens=2000, temperature=1.5, top_p=0.5, top_k=3)},
        ),
        ({"stop_sequences": ["a", "b"]}, {"stops": ("a", "b")}),
        ({"stop_sequences": []}, {}),
        ({"stream": True}, {}),
        ({"stream": False}, {}),
        ({"metadata": {"user_id": "x"}, "service_tier": "standard_only"}, {}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {"show_reasoning": False}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},
            {"show_reasoning": False},
        ),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"tool_choice": {"type": "none"}}, {}),
    ],
)
def test_fields(fields, expected):
    assert differences(**fields) == expected


def test_an_output_format():
    form = {"type": "json_schema", "schema": {"type": "object"}}
    (constraint,) = differences(output_config={"format": form}).values()
    assert (constraint.output.kind, json.loads(constraint.output.value)) == (
        "json",
        {"type": "object"},
    )


def test_the_effort_is_passed_on():
    assert generation_of(decoded(), "low").prompt.reasoning_effort == "low"


SHOWN_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up.",
        "parameters": TOOL["input_schema"],
    },
}


class TestTools:
    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (None, ("auto", None, True)),
            ({"type": "auto"}, ("auto", None, True)),
            ({"type": "any"}, ("required", None, True)),
            ({"type": "tool", "name": "look_up"}, ("named", "look_up", True)),
            ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None, False)),
            ({"type": "auto", "disable_parallel_tool_use": False}, ("auto", None, True)),
        ],
    )
    def test_choices(self, choice, expected):
        (use,) = differences(tools=[TOOL], **({"tool_choice": choice} if choice else {})).values()
        assert (use.mode, use.name, use.parallel) == expected
        assert use.tools == [SHOWN_TOOL]

    def test_none(self):
        assert differences(tools=[TOOL], tool_choice={"type": "none"}) == {}

    def test_strict(self):
        (use,) = differences(tools=[{**TOOL, "strict": True}]).values()
        assert use.functions[0]["strict"] is True


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

    def test_a_system_message_keeps_its_position(self):
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

    def test_an_assistant_message_at_the_end_is_continued(self):
        prompt = generation(
            messages=[HELLO, {"role": "assistant", "content": "The best is ("}]
        ).prompt
        assert prompt.continue_final_message is True
        assert prompt.add_generation_prompt is False
        assert prompt.messages[-1].content == "The best is ("


class TestErrors:
    """Errors of the pipeline use the names of the client's fields."""

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("messages", "messages"),
            ("max_tokens", "max_tokens"),
            ("tools", "tools"),
            ("tools[1].function.name", "tools[1].name"),
            ("tools[10].function.parameters.$defs", "tools[10].input_schema.$defs"),
            ("stop[3]", "stop_sequences[3]"),
            ("response_format", "output_config.format"),
            ("response_format.schema", "output_config.format.schema"),
            ("reasoning_effort", "output_config.effort"),
            ("temperature", "temperature"),
        ],
    )
    def test_paths(self, path, expected):
        error = FIELDS.translate(InvalidValueError(f"`{path}` is wrong", param=path))
        assert (error.message, error.param) == (f"`{expected}` is wrong", expected)

    def test_the_kind_stays(self):
        for kind in (ContextLengthExceededError, UnsupportedParameterError):
            error = FIELDS.translate(kind("shorten the messages"))
            assert (type(error), error.message, error.param) == (kind, "shorten the messages", None)
