"""Chat completions with the official Python client: streams and non-streaming answers."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.instance import Instance
from tests.sdk.conversation import ALIAS, MODEL, text_of, user

TEXTS = {
    "plain": "Good morning",
    "scripts": "Grüße, 世界, مرحبا, हिन्दी, עברית",
    "emoji": "family 👩‍👩‍👧‍👦, flag 🇩🇪, face 🙂",
    "combining": "e\u0301 a\u0308 \u1100\u1161",
    "controls": 'quotes " and \\ and </script> and \u2028 and \x01 and \t and \x7f',
    "events": "data: [DONE]\n\ndata: {}\n\nevent: error\n\n",
    "spaces": "  leading and trailing \n\n",
    "code": '```python\nprint(f"{x!r}")\n```',
    "rare": "\U0001f9ff \ufeff \u200b \U0010ffff",
}


def create(client: openai.OpenAI, text: str, **params: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(
        model=MODEL, messages=user(text), **params
    )
    return answer


def stream(client: openai.OpenAI, text: str, **params: Any) -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(model=MODEL, messages=user(text), stream=True, **params)
    )


def answer_of(
    client: openai.OpenAI, text: str, *, streamed: bool, **params: Any
) -> tuple[str, str]:
    """Return the text of an answer and its finish reason."""
    if streamed:
        chunks = stream(client, text, **params)
        return text_of(chunks), chunks[-1].choices[0].finish_reason or ""
    (choice,) = create(client, text, **params).choices
    return choice.message.content or "", choice.finish_reason


def test_a_non_streaming_answer(client: openai.OpenAI):
    answer = create(client, "Good morning")
    assert isinstance(answer, ChatCompletion)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.created > 1_700_000_000
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert choice.message.role == "assistant"
    assert choice.message.content == "Good morning"
    assert choice.message.refusal is None
    assert choice.message.tool_calls is None
    assert answer.usage.completion_tokens == len("Good morning") + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len("Good morning") + 1


def test_a_stream(client: openai.OpenAI):
    chunks = stream(client, "Good morning")
    assert len({chunk.id for chunk in chunks}) == 1
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", MODEL)}
    assert [chunk.choices[0].delta.role for chunk in chunks].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == "Good morning"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_is_returned_unchanged(client: openai.OpenAI, kind: str, streamed: bool):
    assert answer_of(client, TEXTS[kind], streamed=streamed) == (TEXTS[kind], "stop")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_long_text(client: openai.OpenAI, streamed: bool):
    text = "Ein langer Text. " * 1_500
    assert answer_of(client, text, streamed=streamed, max_completion_tokens=50)[0] == text[:50]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("streamed", [False, True])
def test_limits(client: openai.OpenAI, limit: str, streamed: bool):
    assert answer_of(client, "a🙂b", streamed=streamed, **{limit: 3}) == ("a", "length")
    assert answer_of(client, "abc", streamed=streamed, **{limit: 4}) == ("abc", "stop")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [("three", "one two "), (["nowhere", " two"], "one"), ("on", ""), (["x", "y"], None)],
)
def test_stop_strings(client: openai.OpenAI, stop: Any, expected: str | None, streamed: bool):
    text = "one two three"
    wanted = (text if expected is None else expected, "stop")
    assert answer_of(client, text, stop=stop, streamed=streamed) == wanted


def test_several_choices(client: openai.OpenAI):
    answer = create(client, "Good morning", n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Good morning"}
    assert answer.usage.completion_tokens == 3 * (len("Good morning") + 1)


def test_several_streamed_choices(client: openai.OpenAI):
    chunks = stream(client, "Good morning", n=3)
    assert [text_of(chunks, index) for index in range(3)] == ["Good morning"] * 3
    ends = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason == "stop"]
    assert sorted(ends) == [0, 1, 2]


def test_usage_at_the_end_of_a_stream(client: openai.OpenAI):
    *chunks, last = stream(client, "Good morning", stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == create(client, "Good morning").usage
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_with_every_chunk(client: openai.OpenAI):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(client, "Good morning", stream_options=options)
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len("Good morning") + 1


def test_no_usage_unless_requested(client: openai.OpenAI):
    for options in (None, {"include_usage": False}, {"include_obfuscation": False}):
        chunks = stream(client, "hi", stream_options=options)
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_every_kind_of_message(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Really."}]},
            {"role": "user", "content": "Hello", "name": "someone"},
            {"role": "assistant", "content": "Hi."},
            {"role": "assistant", "content": None, "refusal": "No."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}],
            },
        ],
        temperature=0,
        user="someone",
        metadata={"any": "thing"},
        logit_bias={},
    )
    assert answer.choices[0].message.content == "first\nsecond"


def test_an_answer_can_be_sent_back(client: openai.OpenAI):
    first = create(client, "Good morning").choices[0].message
    messages = [*user("Good morning"), first, *user("and again")]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == "and again"


def test_an_answer_as_a_dictionary_can_be_sent_back(client: openai.OpenAI):
    first = create(client, "Good morning").choices[0].message.model_dump()
    messages = [*user("Good morning"), first, *user("and again")]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == "and again"


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 2, "top_p": 0.1},
        {"presence_penalty": -2, "frequency_penalty": 2},
        {"seed": -1},
        {"seed": 2**63 - 1},
        {"logit_bias": {}},
        {"user": "someone", "safety_identifier": "x", "prompt_cache_key": "y"},
        {"metadata": {"any": "thing"}, "store": False, "service_tier": "auto"},
        {"reasoning_effort": "none"},
        {"response_format": {"type": "text"}},
        {"tools": [], "n": 1},
        {"modalities": ["text"]},
        {"stop": None, "max_tokens": None, "seed": None, "n": None},
    ],
    ids=str,
)
def test_accepted_parameters_without_effect(client: openai.OpenAI, params: dict[str, Any]):
    (choice,) = create(client, "Good morning", **params).choices
    assert choice.message.content == "Good morning"


def test_a_bias_that_bans_and_one_that_forces(client: openai.OpenAI):
    assert create(client, "abc", logit_bias={"98": -100}).choices[0].message.content == "ac"
    answer = create(client, "abc", logit_bias={"122": 100}, max_tokens=3)
    assert answer.choices[0].message.content == "zzz"


def test_an_alias_answers_with_the_models_own_name(client: openai.OpenAI):
    answer = client.chat.completions.create(model=ALIAS, messages=user("hi"))
    assert answer.model == MODEL


def test_a_non_streaming_answer_async(gateway: Instance):
    async def run() -> ChatCompletion:
        async with gateway.async_client() as client:
            return await client.chat.completions.create(model=MODEL, messages=user("hi"))

    assert asyncio.run(run()).choices[0].message.content == "hi"


def test_a_stream_async(gateway: Instance):
    async def run() -> list[ChatCompletionChunk]:
        async with gateway.async_client() as client:
            chunks = await client.chat.completions.create(
                model=MODEL, messages=user("hi there"), stream=True
            )
            return [chunk async for chunk in chunks]

    assert text_of(asyncio.run(run())) == "hi there"


def test_many_at_once_async(gateway: Instance):
    async def run() -> list[str]:
        async with gateway.async_client() as client:

            async def one(number: int) -> str:
                messages = user(f"number {number}")
                if number % 2:
                    answer = await client.chat.completions.create(model=MODEL, messages=messages)
                    return answer.choices[0].message.content or ""
                chunks = await client.chat.completions.create(
                    model=MODEL, messages=messages, stream=True
                )
                return text_of([chunk async for chunk in chunks])

            return await asyncio.gather(*(one(number) for number in range(64)))

    assert asyncio.run(run()) == [f"number {number}" for number in range(64)]
