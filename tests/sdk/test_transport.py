"""Headers, raw answers, timeouts and disconnects, with the official Python client."""

import asyncio
import json
import re
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.sdk.conversation import EMBEDDER, MODEL, user

ENDLESS: Any = {
    "model": MODEL,
    "messages": user("on and on "),
    "extra_body": {"ignore_eos": True},
}


def running(gateway: Instance) -> int:
    body = httpx.get(f"{gateway.url}/stats", timeout=10).json()
    return int(body["engines"][0]["running"])


def wait_idle(gateway: Instance) -> None:
    wait_until(lambda: running(gateway) == 0, 10, "the engine has stopped")


def wait_busy(gateway: Instance) -> None:
    wait_until(lambda: running(gateway) > 0, 10, "the engine runs")


def test_the_request_id(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=user("hi"))
    assert re.fullmatch(r"req-[0-9a-f]{24}", answer._request_id or "")
    assert client.models.list()._request_id
    assert client.embeddings.create(model=EMBEDDER, input="x")._request_id
    headers = {"X-Request-ID": "mine-7"}
    answer = client.chat.completions.create(model=MODEL, messages=user("hi"), extra_headers=headers)
    assert answer._request_id == "mine-7"


def test_the_request_id_of_an_error(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("x")
    assert refused.value.request_id.startswith("req-")


def test_a_raw_response(client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("hi"))
    assert raw.headers["content-type"] == "application/json"
    assert raw.status_code == 200
    assert json.loads(raw.text)["choices"][0]["message"]["content"] == "hi"
    assert raw.parse().choices[0].message.content == "hi"


def test_a_raw_response_of_a_stream(client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=user("hi"), stream=True
    )
    assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "".join(c.choices[0].delta.content or "" for c in raw.parse()) == "hi"


def test_a_streaming_response(client: openai.OpenAI):
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=user("hi"), stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_a_streaming_response_of_a_non_streaming_answer(client: openai.OpenAI):
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=user("hi")
    ) as response:
        assert response.parse().choices[0].message.content == "hi"


def test_one_connection_for_many_requests(gateway: Instance):
    with gateway.client() as client:
        for number in range(50):
            answer = client.chat.completions.create(model=MODEL, messages=user(f"{number}"))
            assert answer.choices[0].message.content == f"{number}"


def test_further_headers_and_queries_have_no_effect(gateway: Instance):
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1/",
        api_key="x",
        organization="org",
        project="proj",
        default_headers={"X-Mine": "1"},
        default_query={"api-version": "1"},
    ) as client:
        answer = client.chat.completions.create(model=MODEL, messages=user("hi"))
    assert answer.choices[0].message.content == "hi"


def test_closing_a_stream_ends_the_generation(gateway: Instance, client: openai.OpenAI):
    stream = client.chat.completions.create(**ENDLESS, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    wait_busy(gateway)
    stream.close()
    wait_idle(gateway)


def test_leaving_the_stream_helper_ends_the_generation(gateway: Instance, client: openai.OpenAI):
    with client.chat.completions.stream(**ENDLESS) as stream:
        next(iter(stream))
        wait_busy(gateway)
    wait_idle(gateway)


def test_cancelling_a_request_ends_the_generation(gateway: Instance):
    async def run() -> None:
        async with gateway.async_client() as client:
            request = asyncio.create_task(client.chat.completions.create(**ENDLESS))
            await asyncio.to_thread(wait_busy, gateway)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(run())
    wait_idle(gateway)


def test_a_timeout_of_the_client_ends_the_generation(gateway: Instance, client: openai.OpenAI):
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**ENDLESS, timeout=0.3)
    wait_idle(gateway)


def test_no_server():
    with (
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()
