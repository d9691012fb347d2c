"""The official Python client's exceptions and their messages."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.sdk.conversation import KEY, LIMITED_KEY, MODEL, user


@pytest.fixture
def keyed(guarded: Instance) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, text: str = "hi", **params: Any) -> Any:
    params = {"model": MODEL, **params}
    return client.chat.completions.create(messages=user(text), **params)


@contextmanager
def busy(client: openai.OpenAI) -> Iterator[Any]:
    """Occupy the only position in the batch with a stream; yields it."""
    stream = ask(client, "on and on ", stream=True, extra_body={"ignore_eos": True})
    try:
        while not next(stream).choices[0].delta.content:
            pass
        yield stream
    finally:
        stream.close()


def waits(url: str) -> bool:
    headers = {"Authorization": f"Bearer {KEY}"}
    stats = httpx.get(f"{url}/stats", headers=headers, timeout=10).json()
    return bool(stats["engines"][0]["waiting"])


@contextmanager
def full(client: openai.OpenAI, url: str) -> Iterator[Any]:
    """Fill the queue too."""
    with busy(client) as stream:
        waiting = threading.Thread(target=ask, args=(client,))
        waiting.start()
        wait_until(lambda: waits(url), 10, "a request waits")
        yield stream
        stream.close()
        waiting.join()


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"messages": []}, "invalid_value", "messages"),
        (
            {"messages": user([{"type": "image_url", "image_url": {"url": "x"}}])},
            "unsupported_parameter",
            "messages[0].content[0].type",
        ),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"n": 0}, "invalid_value", "n"),
        ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
        ({"seed": 2**63}, "invalid_value", "seed"),
        ({"stop": ["a"] * 17}, "invalid_value", "stop"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        ({"audio": {"voice": "x", "format": "wav"}}, "unsupported_parameter", "audio"),
        ({"modalities": ["audio"]}, "unsupported_parameter", "modalities"),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(
    client: openai.OpenAI, params: dict[str, Any], code: str, param: str, stream: bool
):
    request = {"model": MODEL, "messages": user("hi"), **params}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**request, stream=stream)
    error = refused.value
    assert (error.status_code, error.code, error.param) == (400, code, param)
    assert error.type == "invalid_request_error"
    assert f"`{param}`" in error.body["message"]
    assert error.request_id.startswith("req-")


def test_stream_options_without_a_stream(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, stream_options={"include_usage": True})
    assert refused.value.param == "stream_options"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(client: openai.OpenAI, stream: bool):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "x" * 40_000, stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"
    assert "32768" in refused.value.message
    # It is counted only as far as needed.
    assert "at least 4000" in refused.value.message


def test_an_unknown_model(strict: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        ask(strict, model="gpt-4o")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert MODEL in refused.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_field_may_be_refused(strict: openai.OpenAI, stream: bool):
    with pytest.raises(openai.BadRequestError, match="did you mean `max_tokens`") as refused:
        ask(strict, extra_body={"max_token": 5}, stream=stream)
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "max_token")


def test_an_unknown_path(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as refused:
        client.images.generate(model=MODEL, prompt="a cat")
    assert refused.value.code == "not_found"


def test_a_body_that_is_too_large(client: openai.OpenAI):
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, "x" * 9_000_000)
    assert (refused.value.status_code, refused.value.code) == (413, "payload_too_large")


@pytest.mark.parametrize("key", ["sk-wrong", f"{KEY}2", "x" * 500])
def test_a_wrong_key(guarded: Instance, key: str):
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        ask(client)
    assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")
    assert key not in refused.value.message


def test_a_wrong_key_async(guarded: Instance):
    async def run() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{guarded.url}/v1", api_key="x", max_retries=0
        ) as client:
            await client.models.list()

    with pytest.raises(openai.AuthenticationError):
        asyncio.run(run())


def test_a_right_key(keyed: openai.OpenAI):
    assert ask(keyed).choices[0].message.content == "hi"


def test_a_limit_that_is_reached(guarded: Instance):
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=LIMITED_KEY, max_retries=0) as client:

        def ask_for_much() -> None:
            for _ in range(100):
                ask(client)

        with pytest.raises(openai.RateLimitError) as refused:
            ask_for_much()
        error = refused.value
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert error.response.headers["retry-after"] == "1"
        assert error.response.headers["x-ratelimit-remaining"] == "0"
        # The client waits as long as Retry-After says, and then is admitted.
        for _ in range(3):
            ask(client.with_options(max_retries=3))


def test_a_full_queue(guarded: Instance, keyed: openai.OpenAI):
    with full(keyed, guarded.url):
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as refused:
                ask(keyed, stream=stream)
            error = refused.value
            assert (error.status_code, error.code) == (503, "overloaded")
            assert error.type == "overloaded_error"
            assert int(error.response.headers["retry-after"]) >= 1
    assert ask(keyed).choices[0].message.content == "hi"


def test_a_full_queue_is_retried(guarded: Instance, keyed: openai.OpenAI):
    with full(keyed, guarded.url) as running:
        refused = keyed.with_options(max_retries=0).chat.completions.with_raw_response
        with pytest.raises(openai.InternalServerError):
            refused.create(model=MODEL, messages=user("hi"))
        threading.Timer(0.2, running.close).start()
        patient = keyed.with_options(max_retries=5).chat.completions.with_raw_response
        answer = patient.create(model=MODEL, messages=user("patient"))
    assert answer.retries_taken >= 1
    assert answer.parse().choices[0].message.content == "patient"


def test_a_deadline(keyed: openai.OpenAI):
    endless: Any = {"extra_body": {"ignore_eos": True}, "timeout": 30}
    stream = ask(keyed, stream=True, **endless)
    next(stream)
    with pytest.raises(openai.InternalServerError) as refused:
        ask(keyed, **endless)
    assert (refused.value.status_code, refused.value.code) == (504, "deadline_exceeded")
    # What was streamed meanwhile had its status long ago, so its error is an event.
    with pytest.raises(openai.APIError) as broken:
        for _ in stream:
            pass
    assert broken.value.code == "deadline_exceeded"
    assert not isinstance(broken.value, openai.APIStatusError)
