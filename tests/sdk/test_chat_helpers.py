"""The Python client's own helpers: typed answers, typed tools, and streams as events."""

import asyncio
import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.instance import Instance
from tests.sdk.conversation import MODEL, WEATHER, call, user


class Step(BaseModel):
    explanation: str
    value: float


class Answer(BaseModel):
    steps: list[Step]
    unit: Literal["m", "s"] = Field(description="of the value")
    note: str | None


class GetWeather(BaseModel):
    """Tell the weather."""

    city: str
    days: int | None


ANSWER = {"steps": [{"explanation": "eins", "value": 1.5}], "unit": "m", "note": None}
GET_WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")


def test_parse_returns_the_model(client: openai.OpenAI):
    parsed = client.chat.completions.parse(
        model=MODEL, messages=user(json.dumps(ANSWER)), response_format=Answer
    )
    assert parsed.choices[0].message.parsed == Answer(**ANSWER)


def test_parse_of_an_answer_in_another_format(client: openai.OpenAI):
    # The output follows the schema, whatever the model would have written.
    parsed = client.chat.completions.parse(
        model=MODEL, messages=user("no JSON at all"), response_format=Answer
    )
    assert isinstance(parsed.choices[0].message.parsed, Answer)


def test_parse_with_several_choices(client: openai.OpenAI):
    parsed = client.chat.completions.parse(
        model=MODEL, messages=user(json.dumps(ANSWER)), response_format=Answer, n=2
    )
    assert [choice.message.parsed for choice in parsed.choices] == [Answer(**ANSWER)] * 2


def test_parse_of_a_truncated_answer(client: openai.OpenAI):
    with pytest.raises(openai.LengthFinishReasonError) as cut:
        client.chat.completions.parse(
            model=MODEL, messages=user(json.dumps(ANSWER)), response_format=Answer, max_tokens=5
        )
    assert cut.value.completion.usage.completion_tokens == 5


def test_parse_returns_typed_tool_calls(client: openai.OpenAI):
    parsed = client.chat.completions.parse(
        model=MODEL, messages=user(call("get_weather", city="Köln", days=2)), tools=[GET_WEATHER]
    )
    (tool_call,) = parsed.choices[0].message.tool_calls
    assert tool_call.function.parsed_arguments == GetWeather(city="Köln", days=2)


def test_parse_async(gateway: Instance):
    async def run() -> Answer | None:
        async with gateway.async_client() as client:
            parsed = await client.chat.completions.parse(
                model=MODEL, messages=user(json.dumps(ANSWER)), response_format=Answer
            )
            return parsed.choices[0].message.parsed

    assert asyncio.run(run()) == Answer(**ANSWER)


def test_the_stream_helper_reports_content(client: openai.OpenAI):
    with client.chat.completions.stream(model=MODEL, messages=user("Good morning")) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    (done,) = (event for event in events if event.type == "content.done")
    assert "".join(deltas) == done.content == "Good morning"
    assert final.choices[0].message.content == "Good morning"
    assert final.choices[0].finish_reason == "stop"


def test_the_stream_helper_parses(client: openai.OpenAI):
    with client.chat.completions.stream(
        model=MODEL, messages=user(json.dumps(ANSWER)), response_format=Answer
    ) as stream:
        stream.until_done()
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == Answer(**ANSWER)


def test_the_stream_helper_reports_tool_calls(client: openai.OpenAI):
    text = f"Let me look.{call('get_weather', city='Köln', days=2)}"
    with client.chat.completions.stream(
        model=MODEL, messages=user(text), tools=[GET_WEATHER]
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    kinds = [event.type for event in events]
    assert "tool_calls.function.arguments.delta" in kinds
    (done,) = (e for e in events if e.type == "tool_calls.function.arguments.done")
    assert (done.name, json.loads(done.arguments)) == ("get_weather", {"city": "Köln", "days": 2})
    assert done.parsed_arguments == GetWeather(city="Köln", days=2)
    assert message.content == "Let me look."
    assert message.tool_calls[0].function.parsed_arguments == done.parsed_arguments


def test_the_stream_helper_reports_logprobs(client: openai.OpenAI):
    with client.chat.completions.stream(
        model=MODEL, messages=user("abc"), logprobs=True, top_logprobs=2
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (done,) = (event for event in events if event.type == "logprobs.content.done")
    assert "".join(token.token for token in done.content).startswith("abc")
    assert final.choices[0].logprobs.content == done.content


def test_the_stream_helper_reports_usage(client: openai.OpenAI):
    with client.chat.completions.stream(
        model=MODEL, messages=user("hi"), stream_options={"include_usage": True}
    ) as stream:
        assert stream.get_final_completion().usage.completion_tokens == 3


def test_the_stream_helper_async(gateway: Instance):
    async def run() -> str | None:
        async with (
            gateway.async_client() as client,
            client.chat.completions.stream(
                model=MODEL, messages=user(call("get_weather", city="Ulm")), tools=[WEATHER]
            ) as stream,
        ):
            final = await stream.get_final_completion()
            return final.choices[0].message.tool_calls[0].function.arguments

    assert json.loads(asyncio.run(run()) or "") == {"city": "Ulm"}
