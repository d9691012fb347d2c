"""Tools with the official Python client."""

import json
from typing import Any

import openai
import pytest

from tests.sdk.conversation import MODEL, TIME, TOOLS, WEATHER, call, user

NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {
        "mode": "auto",
        "tools": [{"type": "function", "function": {"name": "get_time"}}],
    },
}


class Answer:
    """A message, streamed or not."""

    def __init__(self, client: openai.OpenAI, text: str, *, streamed: bool, **params: Any) -> None:
        self.content, self.calls = "", []
        params = {"model": MODEL, "messages": user(text), "tools": TOOLS, **params}
        if not streamed:
            (choice,) = client.chat.completions.create(**params).choices
            self.content, self.finish_reason = choice.message.content, choice.finish_reason
            self.ids = [c.id for c in choice.message.tool_calls or []]
            self.calls = [
                (c.function.name, json.loads(c.function.arguments))
                for c in choice.message.tool_calls or []
            ]
            return
        names: dict[int, str] = {}
        ids: dict[int, str] = {}
        arguments: dict[int, str] = {}
        for chunk in client.chat.completions.create(**params, stream=True):
            (choice,) = chunk.choices
            self.finish_reason = choice.finish_reason
            self.content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.id is not None:
                    # The first part of a call has its name; what follows only adds arguments.
                    assert part.index == len(names)
                    assert part.type == "function"
                    ids[part.index], names[part.index] = part.id, part.function.name
                assert part.index in names
                old = arguments.get(part.index, "")
                arguments[part.index] = old + (part.function.arguments or "")
        self.content = self.content or None
        self.ids = list(ids.values())
        self.calls = [(names[i], json.loads(arguments[i])) for i in names]


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_call(client: openai.OpenAI, streamed: bool):
    answer = Answer(client, call("get_weather", city="Köln", days=2), streamed=streamed)
    assert answer.content is None
    assert answer.calls == [("get_weather", {"city": "Köln", "days": 2})]
    assert answer.finish_reason == "tool_calls"


def test_a_call_of_a_custom_tool(client: openai.OpenAI):
    text = call("patch", input='*** "x"\n') + "\n" + call("get_time", zone="CET")
    tool: Any = {"type": "custom", "custom": {"name": "patch", "description": "Applies it."}}
    params: Any = {"model": MODEL, "messages": user(text), "tools": [tool, *TOOLS]}
    custom, function = client.chat.completions.create(**params).choices[0].message.tool_calls or []
    assert custom.type == "custom"
    assert (custom.custom.name, custom.custom.input) == ("patch", '*** "x"\n')
    assert function.type == "function"
    parts = [
        part
        for chunk in client.chat.completions.create(**params, stream=True)
        for part in chunk.choices[0].delta.tool_calls or []
    ]
    assert [part.index for part in parts if part.id] == [0, 1]
    assert parts[0].type == "custom"
    # The client's types have no custom calls in streams yet.
    inputs = [part.model_extra["custom"]["input"] for part in parts if part.index == 0]
    assert "".join(inputs) == custom.custom.input
    made = {"role": "assistant", "tool_calls": [custom.model_dump()]}
    result = {"role": "tool", "tool_call_id": custom.id, "content": "done"}
    turns: Any = [*user("hi"), made, result, *user("bye")]
    answer = client.chat.completions.create(model=MODEL, messages=turns, tools=[tool])
    assert answer.choices[0].message.content == "bye"


def test_parallel_calls(client: openai.OpenAI, streamed: bool):
    text = call("get_weather", city="Ulm") + "\n" + call("get_time", zone="CET")
    answer = Answer(client, text, streamed=streamed)
    assert answer.calls == [("get_weather", {"city": "Ulm"}), ("get_time", {"zone": "CET"})]
    assert len(set(answer.ids)) == 2


def test_only_the_first_call_without_parallel_calls(client: openai.OpenAI, streamed: bool):
    text = call("get_weather", city="Ulm") + call("get_time", zone="CET")
    answer = Answer(client, text, streamed=streamed, parallel_tool_calls=False)
    assert answer.calls == [("get_weather", {"city": "Ulm"})]


def test_text_before_a_call(client: openai.OpenAI, streamed: bool):
    answer = Answer(client, "Let me look." + call("get_time"), streamed=streamed)
    assert (answer.content, answer.calls) == ("Let me look.", [("get_time", {})])


def test_an_answer_without_a_call(client: openai.OpenAI, streamed: bool):
    for choice in ("auto", None):
        answer = Answer(client, "Good morning", streamed=streamed, tool_choice=choice)
        assert (answer.content, answer.calls, answer.finish_reason) == ("Good morning", [], "stop")


def test_no_calls_with_tool_choice_none(client: openai.OpenAI, streamed: bool):
    text = call("get_weather", city="Ulm")
    answer = Answer(client, text, streamed=streamed, tool_choice="none")
    assert (answer.content, answer.calls, answer.finish_reason) == (text, [], "stop")


def test_a_call_can_be_required(client: openai.OpenAI, streamed: bool):
    text = json.dumps([{"name": "get_time", "parameters": {"zone": "CET"}}])
    answer = Answer(client, text, streamed=streamed, tool_choice="required")
    assert answer.calls == [("get_time", {"zone": "CET"})]
    assert answer.finish_reason == "tool_calls"
    assert not answer.content


def test_a_required_call_replaces_the_models_own_text(client: openai.OpenAI, streamed: bool):
    answer = Answer(client, "no call", streamed=streamed, tool_choice="required", tools=[WEATHER])
    ((name, arguments),) = answer.calls
    assert name == "get_weather"
    assert isinstance(arguments["city"], str)


def test_a_named_call(client: openai.OpenAI, streamed: bool):
    answer = Answer(client, '{"city": "Ulm"}', streamed=streamed, tool_choice=NAMED)
    assert answer.calls == [("get_weather", {"city": "Ulm"})]
    # As OpenAI's own: with a named call the model's end is just its end.
    assert answer.finish_reason == "stop"


def test_allowed_tools(client: openai.OpenAI, streamed: bool):
    answer = Answer(client, call("get_time", zone="CET"), streamed=streamed, tool_choice=ALLOWED)
    assert answer.calls == [("get_time", {"zone": "CET"})]


def test_a_round_trip(client: openai.OpenAI):
    messages: list[Any] = user(call("get_weather", city="Köln"))
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    message = first.choices[0].message
    messages.append(message)
    messages += [
        {"role": "tool", "tool_call_id": tool_call.id, "content": "18 °C and sunny"}
        for tool_call in message.tool_calls
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "18 °C and sunny"
    assert second.choices[0].finish_reason == "stop"


def test_a_round_trip_with_parallel_calls_and_parts(client: openai.OpenAI):
    text = call("get_weather", city="Ulm") + call("get_time", zone="CET")
    messages: list[Any] = user(text)
    message = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    calls = message.choices[0].message.tool_calls
    messages.append({"role": "assistant", "tool_calls": [c.model_dump() for c in calls]})
    for tool_call, result in zip(calls, ("sunny", "noon"), strict=True):
        parts = [{"type": "text", "text": result}]
        messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": parts})
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "noon"


def test_calls_in_several_choices(client: openai.OpenAI):
    text = call("get_time", zone="CET")
    answer = client.chat.completions.create(model=MODEL, messages=user(text), tools=TOOLS, n=2)
    ids = [choice.message.tool_calls[0].id for choice in answer.choices]
    assert len(set(ids)) == 2


def test_a_truncated_call_is_not_a_call(client: openai.OpenAI, streamed: bool):
    text = call("get_weather", city="Köln")
    params = {"model": MODEL, "messages": user(text), "tools": TOOLS, "max_tokens": 30}
    if streamed:
        *_, last = client.chat.completions.create(**params, stream=True)
    else:
        last = client.chat.completions.create(**params)
    assert last.choices[0].finish_reason == "length"


def test_strict_and_absent_parameters(client: openai.OpenAI):
    tools = [
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": {**WEATHER["function"], "strict": True}},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=user(call("now")), tools=tools)
    (tool_call,) = answer.choices[0].message.tool_calls
    assert (tool_call.function.name, tool_call.function.arguments) == ("now", "{}")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [TIME], "tool_choice": NAMED},
            "tool_choice.function.name",
        ),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("hi"), **params)
    assert refused.value.param == param
