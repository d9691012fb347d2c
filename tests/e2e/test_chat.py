"""Chat completions, models and health over real HTTP, mostly with the official client."""

import re

import httpx
import openai
import pytest

from tests.e2e.instance import Instance
from tests.e2e.traffic import CHAT, MODEL, chat

GREETING = [{"role": "user", "content": "Good morning"}]
TEXTS = [
    "plain",
    "Grüße, 世界, مرحبا",
    "family 👩‍👩‍👧‍👦, flag 🇩🇪, face 🙂",
    'quotes " and \\ and </script> and \u2028 and \x01 and \t',
    "data: [DONE]\n\ndata: {}\n\n",
    "x" * 1500,
]


@pytest.fixture(scope="module")
def client(dry_run: Instance):
    with dry_run.client() as client:
        yield client


def test_a_non_streaming_answer(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=GREETING)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Good morning"
    assert choice.finish_reason == "stop"
    # Two markers and the text; an end marker; the assistant's marker. Then the text and its end.
    assert answer.usage.prompt_tokens == len("Good morning") + 3
    assert answer.usage.completion_tokens == len("Good morning") + 1
    assert answer.usage.total_tokens == 2 * len("Good morning") + 4


def test_a_streamed_answer(client: openai.OpenAI):
    chunks = list(client.chat.completions.create(model=MODEL, messages=GREETING, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Good morning"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


def test_a_stream_with_usage(client: openai.OpenAI):
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=GREETING, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 2 * len("Good morning") + 4
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stream", [False, True])
def test_any_text_is_returned_unchanged(client: openai.OpenAI, text: str, stream: bool):
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], stream=stream, max_tokens=500
    )
    if stream:
        received = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        received = answer.choices[0].message.content
    assert received == text[:500]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_emoji_cut_by_the_limit_is_left_out(client: openai.OpenAI, limit: str, stream: bool):
    # "a" and the first two of an emoji's four bytes: no half character may show.
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a🙂b"}],
        stream=stream,
        **{limit: 3},
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    if stream:
        *chunks, last = answer
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason, usage = chunks[-1].choices[0].finish_reason, last.usage
    else:
        text = answer.choices[0].message.content
        reason, usage = answer.choices[0].finish_reason, answer.usage
    assert (text, reason, usage.completion_tokens) == ("a", "length", 3)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("three", "one two "),
        (["nowhere", " two"], "one"),
        ("on", ""),
        (["two three", "e t"], "on"),
        ("six", "one two three"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: openai.OpenAI, stop: str | list[str], expected: str, stream: bool):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "one two three"}],
        stop=stop,
        stream=stream,
    )
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == (expected, "stop")


def test_several_choices(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=GREETING, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Good morning"}
    assert answer.usage.completion_tokens == 3 * (len("Good morning") + 1)


def test_several_streamed_choices(client: openai.OpenAI):
    texts, reasons = ["", "", ""], [None, None, None]
    for chunk in client.chat.completions.create(model=MODEL, messages=GREETING, n=3, stream=True):
        for choice in chunk.choices:
            assert reasons[choice.index] is None, "a chunk after the choice's end"
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert texts == ["Good morning"] * 3
    assert reasons == ["stop"] * 3


def test_the_largest_seed_with_several_choices(client: openai.OpenAI):
    # Each choice has the next seed, which must not leave the range that the engine takes.
    answer = client.with_options(timeout=20).chat.completions.create(
        model=MODEL, messages=GREETING, n=2, seed=2**63 - 1
    )
    assert len(answer.choices) == 2


def test_null_fields_count_as_absent(dry_run: Instance):
    nothing = dict.fromkeys(["stop", "n", "stream", "tools", "max_tokens", "seed", "user"])
    response = httpx.post(dry_run.url + CHAT, json=chat("hi", **nothing))
    assert response.json()["choices"][0]["message"]["content"] == "hi"


def test_the_request_id_is_the_clients_or_a_new_one(client: openai.OpenAI):
    create = client.chat.completions.with_raw_response.create
    given = create(model=MODEL, messages=GREETING, extra_headers={"X-Request-ID": "client-7"})
    assert given.headers["x-request-id"] == "client-7"
    ours = create(model=MODEL, messages=GREETING).headers["x-request-id"]
    assert re.fullmatch(r"req-[0-9a-f]{24}", ours)
    for invalid in ("with space", "x" * 129):
        answer = create(model=MODEL, messages=GREETING, extra_headers={"X-Request-ID": invalid})
        assert answer.headers["x-request-id"].startswith("req-")
    with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=GREETING, stream=True, extra_headers={"X-Request-ID": "client-8"}
    ) as stream:
        assert stream.headers["x-request-id"] == "client-8"


def test_the_headers_of_a_stream(dry_run: Instance):
    with httpx.stream("POST", dry_run.url + CHAT, json=chat("hi", stream=True)) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_models(client: openai.OpenAI):
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no/such/model")
    assert refused.value.code == "model_not_found"


def test_a_model_is_found_with_its_slash_plain_or_encoded(dry_run: Instance):
    for path in (MODEL, MODEL.replace("/", "%2F")):
        assert httpx.get(f"{dry_run.url}/v1/models/{path}").json()["id"] == MODEL


def test_health_and_readiness(dry_run: Instance):
    assert httpx.get(dry_run.url + "/health").json()["status"] == "ok"
    ready = httpx.get(dry_run.url + "/ready")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert ready.json()["engines"][0]["state"] == "ready"


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", f"/v1/models/{MODEL}"])
def test_head_is_get_without_a_body(dry_run: Instance, path: str):
    head, get = httpx.head(dry_run.url + path), httpx.get(dry_run.url + path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


def test_no_problem_was_logged(dry_run: Instance):
    assert dry_run.has_problem() is None


def test_no_text_or_unchecked_input_of_a_client_is_logged(dry_run: Instance):
    secret = "my secret words"
    httpx.post(dry_run.url + CHAT, json=chat(secret))
    httpx.post(dry_run.url + CHAT, json=chat("hi", model="x\n00:00:00 ERROR engine  forged"))
    httpx.post(dry_run.url + CHAT, json=chat("hi", **{secret: 1}))
    httpx.get(dry_run.url + "/%0aforged")
    assert secret not in dry_run.logs()
    assert not re.search(r"^\S* ?ERROR", dry_run.logs(), re.MULTILINE)
    assert "\nforged" not in dry_run.logs()
