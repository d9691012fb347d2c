"""Completions with the official Python client."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types import Completion

from tests.e2e.instance import Instance
from tests.sdk.conversation import MODEL

# The dry-run engine answers with the prompt.
TEXT = "one two three"
BYTES = list(TEXT.encode())


def create(client: openai.OpenAI, prompt: Any = TEXT, **params: Any) -> Completion:
    answer: Completion = client.completions.create(model=MODEL, prompt=prompt, **params)
    return answer


def texts(answer: Completion) -> list[str]:
    return [choice.text for choice in answer.choices]


def test_a_non_streaming_answer(client: openai.OpenAI):
    answer = create(client)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", MODEL)
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, TEXT, "stop")
    assert choice.logprobs is None
    assert answer.usage.prompt_tokens == len(TEXT)
    assert answer.usage.completion_tokens == len(TEXT) + 1


def test_the_default_limit_is_sixteen_tokens(client: openai.OpenAI):
    answer = create(client, "x" * 40)
    assert (texts(answer), answer.choices[0].finish_reason) == (["x" * 16], "length")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", ["ab"]),
        (["ab"], ["ab"]),
        (["ab", "cd", "é"], ["ab", "cd", "é"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99]], ["ab", "c"]),
    ],
    ids=["text", "a list", "texts", "tokens", "lists of tokens"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_kinds_of_prompts(client: openai.OpenAI, prompt: Any, expected: list[str], streamed: bool):
    if not streamed:
        assert texts(create(client, prompt)) == expected
        return
    joined = [""] * len(expected)
    for chunk in create(client, prompt, stream=True):
        for choice in chunk.choices:
            joined[choice.index] += choice.text
    assert joined == expected


def test_several_choices_for_several_prompts(client: openai.OpenAI):
    answer = create(client, ["ab", "cd"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts(answer) == ["ab", "ab", "cd", "cd"]
    assert answer.usage.completion_tokens == 4 * 3
    assert answer.usage.prompt_tokens == 4


def test_a_stream_with_usage(client: openai.OpenAI):
    *chunks, last = create(client, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert (last.choices, last.usage) == ([], create(client).usage)
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("streamed", [False, True])
def test_echo(client: openai.OpenAI, streamed: bool):
    answer = create(client, "ab", echo=True, stream=streamed)
    text = "".join(c.choices[0].text for c in answer) if streamed else answer.choices[0].text
    assert text == "abab"


def test_only_the_prompt(client: openai.OpenAI):
    answer = create(client, "ab", echo=True, max_tokens=0)
    assert texts(answer) == ["ab"]
    assert answer.usage.completion_tokens == 0


def test_stop(client: openai.OpenAI):
    assert texts(create(client, stop=" three")) == ["one two"]
    assert texts(create(client, stop=["three", "two"])) == ["one "]


def test_logprobs(client: openai.OpenAI):
    logprobs = create(client, "ab", logprobs=2).choices[0].logprobs
    assert logprobs.tokens[:2] == ["a", "b"]
    assert logprobs.text_offset[:2] == [0, 1]
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 3
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)
    assert logprobs.top_logprobs[0]["a"] == logprobs.token_logprobs[0]


def test_logprobs_of_the_echoed_prompt(client: openai.OpenAI):
    logprobs = create(client, "ab", logprobs=0, echo=True, max_tokens=2).choices[0].logprobs
    assert logprobs.tokens == ["a", "b", "a", "b"]
    assert logprobs.text_offset == [0, 1, 2, 3]
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])


def test_streamed_logprobs(client: openai.OpenAI):
    tokens, offsets = [], []
    for chunk in create(client, "ab", logprobs=1, stream=True):
        if (logprobs := chunk.choices[0].logprobs) is not None:
            tokens += logprobs.tokens
            offsets += logprobs.text_offset
    assert (tokens[:2], offsets[:2]) == (["a", "b"], [0, 1])


def test_token_ids(client: openai.OpenAI):
    (choice,) = create(client, "ab", extra_body={"return_token_ids": True}).choices
    assert choice.prompt_token_ids == [97, 98]
    assert choice.token_ids[:2] == [97, 98]


def test_a_constraint(client: openai.OpenAI):
    body = {"structured_outputs": {"choice": ["left", "right"]}}
    assert texts(create(client, "right", extra_body=body)) == ["right"]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [97, 10**6]}, "prompt[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 129}, "n"),
        ({"prompt": ["x"] * 1025}, "prompt"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, **params)
    assert refused.value.param == param


def test_neutral_values_of_refused_fields(client: openai.OpenAI):
    assert texts(create(client, best_of=1, suffix="", user="someone")) == [TEXT]


def test_async(gateway: Instance):
    async def run() -> tuple[str, str]:
        async with gateway.async_client() as client:
            whole = await client.completions.create(model=MODEL, prompt=TEXT)
            stream = await client.completions.create(model=MODEL, prompt=TEXT, stream=True)
            return whole.choices[0].text, "".join([c.choices[0].text async for c in stream])

    assert asyncio.run(run()) == (TEXT, TEXT)
