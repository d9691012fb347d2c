"""The Responses API with the official Python client."""

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.e2e.instance import Instance
from tests.sdk.conversation import MODEL, WEATHER, call

TOOL: Any = {"type": "function", "strict": True, **WEATHER["function"]}


class Person(BaseModel):
    name: str
    age: int


def test_a_text(client: openai.OpenAI):
    answer = client.responses.create(model=MODEL, input="Good morning")
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.model) == ("response", "completed", MODEL)
    assert answer.output_text == "Good morning"
    assert answer.error is None
    assert answer.usage.output_tokens == len("Good morning") + 1
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_conversation_with_instructions(client: openai.OpenAI):
    answer = client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
        ],
        store=False,
    )
    assert answer.output_text == "and now?"


def test_an_answer_can_be_sent_back(client: openai.OpenAI):
    first = client.responses.create(model=MODEL, input="Good morning")
    items: list[Any] = [{"role": "user", "content": "Good morning"}, *first.output]
    answer = client.responses.create(
        model=MODEL, input=[*items, {"role": "user", "content": "again"}]
    )
    assert answer.output_text == "again"


def test_a_stream(client: openai.OpenAI):
    events = list(client.responses.create(model=MODEL, input="Good morning", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "Good morning"
    assert events[-1].response.output_text == "Good morning"


def test_the_stream_helper(client: openai.OpenAI):
    with client.responses.stream(model=MODEL, input="Good morning") as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Good morning"


def test_the_limit(client: openai.OpenAI):
    answer = client.responses.create(model=MODEL, input="Good morning", max_output_tokens=4)
    assert (answer.output_text, answer.status) == ("Good", "incomplete")
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_tool_round_trip(client: openai.OpenAI):
    items: list[Any] = [{"role": "user", "content": call("get_weather", city="Ulm")}]
    first = client.responses.create(model=MODEL, input=items, tools=[TOOL])
    (item,) = first.output
    assert (item.type, item.name) == ("function_call", "get_weather")
    assert json.loads(item.arguments) == {"city": "Ulm"}
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
    second = client.responses.create(model=MODEL, input=[*items, item, output], tools=[TOOL])
    assert second.output_text == "sunny"


def test_a_streamed_call(client: openai.OpenAI):
    with client.responses.stream(
        model=MODEL, input=call("get_weather", city="Ulm"), tools=[TOOL]
    ) as stream:
        events = list(stream)
        (item,) = stream.get_final_response().output
    (done,) = (e for e in events if e.type == "response.function_call_arguments.done")
    assert json.loads(done.arguments) == json.loads(item.arguments) == {"city": "Ulm"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_required_call(client: openai.OpenAI, choice: Any):
    answer = client.responses.create(model=MODEL, input="hi", tools=[TOOL], tool_choice=choice)
    assert [item.type for item in answer.output] == ["function_call"]


def test_parse(client: openai.OpenAI):
    answer = client.responses.parse(
        model=MODEL, input='{"name": "Jürgen", "age": 7}', text_format=Person
    )
    assert answer.output_parsed == Person(name="Jürgen", age=7)


def test_a_json_object(client: openai.OpenAI):
    answer = client.responses.create(
        model=MODEL, input="no JSON", text={"format": {"type": "json_object"}}
    )
    assert isinstance(json.loads(answer.output_text), dict)


def test_reasoning(client: openai.OpenAI):
    answer = client.responses.create(model=MODEL, input="<think>Hm.</think>42")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Hm."
    assert answer.output_text == "42"


def test_streamed_reasoning(client: openai.OpenAI):
    with client.responses.stream(model=MODEL, input="<think>Hm.</think>42") as stream:
        deltas = [e.delta for e in stream if e.type == "response.reasoning_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == "Hm."
    assert final.output_text == "42"


def test_logprobs(client: openai.OpenAI):
    answer = client.responses.create(
        model=MODEL, input="abc", top_logprobs=2, include=["message.output_text.logprobs"]
    )
    tokens = answer.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens).startswith("abc")
    assert all(len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"temperature": -1}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
    ids=str,
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="hi", **params)
    assert refused.value.param == param


def test_the_items_of_a_stored_conversation(client: openai.OpenAI):
    first = client.responses.create(model=MODEL, input="one")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    listed = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    assert [(item.type, item.role, item.content[0].text) for item in listed] == [
        ("message", "user", "one"),
        ("message", "assistant", "one"),
        ("message", "user", "two"),
    ]


def test_responses_may_be_left_unstored(client: openai.OpenAI):
    answer = client.responses.create(model=MODEL, input="hi", store=False)
    for missing in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            missing(answer.id)


def test_async(gateway: Instance):
    async def run() -> tuple[str, str]:
        async with gateway.async_client() as client:
            whole = await client.responses.create(model=MODEL, input="hi")
            async with client.responses.stream(model=MODEL, input="hi") as stream:
                final = await stream.get_final_response()
            return whole.output_text, final.output_text

    assert asyncio.run(run()) == ("hi", "hi")
