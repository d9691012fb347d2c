"""Log probabilities with the official Python client."""

import math

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.sdk.conversation import MODEL, user


def create(client: openai.OpenAI, text: str, **params: object) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(
        model=MODEL, messages=user(text), logprobs=True, **params
    )
    return answer


def test_none_unless_requested(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=user("abc"), logprobs=False)
    assert answer.choices[0].logprobs is None


def test_one_for_each_token(client: openai.OpenAI):
    answer = create(client, "hé")
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert bytes(byte for token in tokens for byte in token.bytes or []).startswith("hé".encode())
    assert all(token.logprob <= 0 and token.top_logprobs == [] for token in tokens)


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_top_logprobs(client: openai.OpenAI, top: int):
    for token in create(client, "abc", top_logprobs=top).choices[0].logprobs.content:
        assert len(token.top_logprobs) == top
        logprobs = [other.logprob for other in token.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1
        if top:
            assert (token.token, token.logprob) == (
                token.top_logprobs[0].token,
                token.top_logprobs[0].logprob,
            )


def test_streamed_logprobs_are_the_same(client: openai.OpenAI):
    whole = create(client, "Grüße", top_logprobs=2).choices[0].logprobs.content
    streamed = [
        token
        for chunk in create(client, "Grüße", top_logprobs=2, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == whole


def test_every_choice_has_its_own(client: openai.OpenAI):
    for choice in create(client, "abc", n=2).choices:
        assert len(choice.logprobs.content) == 4


def test_tokens_as_ids(client: openai.OpenAI):
    answer = create(client, "ab", extra_body={"return_tokens_as_token_ids": True})
    tokens = [token.token for token in answer.choices[0].logprobs.content]
    assert tokens[:2] == ["token_id:97", "token_id:98"]


def test_logprobs_of_the_prompt(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model=MODEL, messages=user("ab"), extra_body={"prompt_logprobs": 1}
    )
    first, *others = answer.prompt_logprobs
    assert first is None
    assert len(others) == answer.usage.prompt_tokens - 1
    assert "97" in others[0]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
    ids=str,
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, object], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("hi"), **params)
    assert refused.value.param == param
