"""The Responses API through the official client. The engine repeats the last message."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pydantic
import pytest

from tests.e2e.instance import Instance
from tests.e2e.traffic import MODEL
from tests.frontend.apis.openai.responses_events import check_stream, without_ids

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
THOUGHT = "<think>Warm, I guess.</think>"
LOGPROBS = "message.output_text.logprobs"
REQUESTS = [
    {"input": "Good morning"},
    {"input": "Grüße, 世界 👩‍👩‍👧‍👦", "instructions": "Be."},
    {"input": f"{THOUGHT}Let me see. {CALL}{CALL}", "tools": [WEATHER]},
    {"input": CALL, "tools": [WEATHER]},
    {"input": f"{THOUGHT}It is warm.", "max_output_tokens": 35},
    {"input": f"{THOUGHT}It is warm.", "max_output_tokens": 10},
    {"input": f"{THOUGHT}Hm. {CALL}", "tools": [WEATHER], "include": [LOGPROBS], "top_logprobs": 2},
    {"input": "Good", "include": [LOGPROBS]},
    {"input": "Good, stop here", "stop": [" stop"]},
]


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def gateway(run_dirs: Path) -> Iterator[Instance]:
    with Instance(
        run_dirs, dry_run=True, server__workers=1, dry_run__step_ms=1, cache__enabled=True
    ) as instance:
        yield instance
        assert not instance.has_problem()


@pytest.fixture(scope="module")
def client(gateway: Instance) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client


def post(gateway: Instance, headers: dict[str, str] | None = None, **fields) -> httpx.Response:
    body = {"model": MODEL, **fields}
    return httpx.post(f"{gateway.url}/v1/responses", json=body, headers=headers, timeout=60)


def test_a_non_streaming_answer(client: openai.OpenAI):
    answer = client.responses.create(model=MODEL, input="Good morning", metadata={"a": "b"})
    assert answer.output_text == "Good morning"
    assert (answer.status, answer.model, answer.metadata) == ("completed", MODEL, {"a": "b"})
    assert answer.id.startswith("resp_")
    # Two markers and the text; an end marker; the assistant's marker. Then the text and its end.
    assert answer.usage.input_tokens == len("Good morning") + 3
    assert answer.usage.output_tokens == len("Good morning") + 1
    assert answer.usage.total_tokens == 2 * len("Good morning") + 4


def test_a_stream(client: openai.OpenAI):
    with client.responses.stream(model=MODEL, input=f"{THOUGHT}Good morning") as stream:
        events = list(stream)
        final = stream.get_final_response()
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert (thought, text) == ("Warm, I guess.", "Good morning")
    assert final.output_text == "Good morning"
    assert final.usage.output_tokens_details.reasoning_tokens == len(THOUGHT)


@pytest.mark.parametrize("fields", REQUESTS)
def test_a_stream_ends_with_the_complete_response(gateway: Instance, fields):
    fresh = {"cache-control": "no-store"}
    whole = post(gateway, fresh, **fields)
    assert whole.status_code == 200, whole.text
    streamed = post(gateway, fresh, stream=True, **fields)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    final = check_stream(streamed.content)
    expected = _without_call_ids(without_ids(whole.json()))
    assert _without_call_ids(without_ids(final)) == expected
    # And so does one that is made of a stored answer.
    post(gateway, **fields)
    stored = post(gateway, stream=True, **fields)
    assert stored.headers["x-vgate-cache"] == "hit"
    final = check_stream(stored.content)
    assert _without_call_ids(without_ids(final)) == expected


def _without_call_ids(response):
    for item in response["output"]:
        assert item.pop("call_id", "call_").startswith("call_")
    # What was read before is in the prefix cache the next time.
    response["usage"].pop("input_tokens_details")
    return response


def test_a_conversation_with_tools(client: openai.OpenAI):
    items = [{"role": "user", "content": f"{THOUGHT}Let me see. {CALL}"}]
    answer = client.responses.create(model=MODEL, input=items, tools=[WEATHER], store=False)
    reasoning, message, call = answer.output
    assert reasoning.content[0].text == "Warm, I guess."
    assert message.content[0].text == "Let me see. "
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
    # All that came goes back as it is, with the result.
    items += answer.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"})
    after = client.responses.create(model=MODEL, input=items, tools=[WEATHER])
    assert after.output_text == "20 degrees"


def test_a_stream_with_tools(client: openai.OpenAI):
    with client.responses.stream(model=MODEL, input=CALL, tools=[WEATHER]) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                assert '{"city": "Rome"}'.startswith(event.snapshot)
        (call,) = stream.get_final_response().output
    assert call.parsed_arguments == {"city": "Rome"}


def test_parse(client: openai.OpenAI):
    text = '{"city": "Rome", "degrees": 20}'
    answer = client.responses.parse(model=MODEL, input=text, text_format=Weather)
    assert answer.output_parsed == Weather(city="Rome", degrees=20)
    with client.responses.stream(model=MODEL, input=text, text_format=Weather) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == Weather(city="Rome", degrees=20)
    assert final.text.format.name == "Weather"


def test_log_probabilities(client: openai.OpenAI):
    answer = client.responses.create(
        model=MODEL, input="Good", include=[LOGPROBS], top_logprobs=2, temperature=0
    )
    shown = answer.output[0].content[0].logprobs
    assert [token.token for token in shown] == [*"Good", "<|end|>"]
    assert all(len(token.top_logprobs) == 2 for token in shown)


def test_an_unfinished_answer_can_be_continued(client: openai.OpenAI):
    question = {"role": "user", "content": "Good morning"}
    answer = client.responses.create(model=MODEL, input=[question], max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output_text == "Good "
    sent = {"model": MODEL, "input": [question, *answer.output]}
    whole = client.responses.create(**sent)
    asked = client.chat.completions.create(
        model=MODEL,
        messages=[question, {"role": "assistant", "content": "Good "}],
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert whole.output_text == asked.choices[0].message.content
    assert whole.usage.input_tokens == asked.usage.prompt_tokens


def test_chats_and_responses_share_stored_answers(gateway: Instance, client: openai.OpenAI):
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be."}, {"role": "user", "content": "Shared"}],
    )
    answer = post(gateway, instructions="Be.", input="Shared")
    assert answer.headers["x-vgate-cache"] == "hit"
    assert answer.json()["output"][0]["content"][0]["text"] == chat.choices[0].message.content


def test_errors_name_the_clients_fields(client: openai.OpenAI):
    for fields, param, words in (
        ({"input": "x" * 5000}, "input", "maximum context length"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type", "input_image"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id", "stored"),
        ({"input": "Hi", "include": [LOGPROBS], "top_logprobs": 10**6}, "top_logprobs", "at most"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            client.responses.create(model=MODEL, **fields)
        assert caught.value.param == param
        with pytest.raises(openai.BadRequestError, match=words):
            client.responses.create(model=MODEL, stream=True, **fields)
