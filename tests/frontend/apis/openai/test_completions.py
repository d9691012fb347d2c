"""Completions: streams and non-streaming responses have the same content."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.apis.openai.test_chat import chunks_of
from vgate.frontend.answers import ChoiceDelta, ChoiceResult, Result, TokenCounts
from vgate.frontend.apis.openai.completions.response import CompletionEncoder
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.wire.logprobs import Logprobs

PROMPT = list(b"ab")


def logprobs_of(token):
    return Logprobs.of((token, ord("z")), (-1.0, -0.5), 2)


@pytest.fixture
def texts(built_in):
    return LogprobTexts(built_in.token_texts, top=1)


def encoder(logprobs=None, **fields):
    return CompletionEncoder(
        **{
            "id": "cmpl-1",
            "created": 7,
            "model": "m",
            "choices_each": 1,
            "prompts": [PROMPT],
            "logprobs": logprobs,
        }
        | fields
    )


@settings(deadline=None)
@given(
    parts=st.lists(st.text("xyé", max_size=3), max_size=4),
    echo=st.booleans(),
    logprobs=st.sampled_from([None, 0, 1]),
    token_ids=st.booleans(),
)
def test_a_stream_has_the_content_of_the_non_streaming_response(
    built_in, parts, echo, logprobs, token_ids
):
    completions = encoder(
        None if logprobs is None else LogprobTexts(built_in.token_texts, top=logprobs),
        echo=["ab"] if echo else None,
        return_token_ids=token_ids,
    )
    with_logprobs = logprobs is not None
    tokens = [list(part.encode()) for part in parts]
    positions = [[logprobs_of(token) for token in part] for part in tokens]
    prompt_logprobs = [None, logprobs_of(PROMPT[1])] if with_logprobs and echo else None
    stream = completions.stream_encoder()
    stream.counts = lambda: TokenCounts(2, 3)
    data = stream.begin() + stream.open(0, prompt_logprobs)
    for part, ids, logprobs_of_part in zip(parts, tokens, positions, strict=True):
        if with_logprobs or token_ids:
            delta = ChoiceDelta(
                part,
                logprobs=logprobs_of_part if with_logprobs else None,
                token_ids=ids if token_ids else None,
            )
            data += stream.delta(0, delta)
        else:
            data += stream.text(0, part)
    chunks = chunks_of(data + stream.finish(0, "length", None) + stream.end())
    choice = ChoiceResult(
        "".join(parts),
        "length",
        logprobs=[position for part in positions for position in part] if with_logprobs else None,
        token_ids=[token for part in tokens for token in part] if token_ids else None,
        prompt_logprobs=prompt_logprobs,
    )
    completion = json.loads(completions.encode(Result([choice], TokenCounts(2, 3))))
    (choice,) = completion["choices"]
    streamed = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["text"] for c in streamed) == choice["text"]
    assert streamed[-1]["finish_reason"] == choice["finish_reason"]
    assert [t for c in streamed for t in c.get("token_ids", [])] == (choice["token_ids"] or [])
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        of_stream = [x for c in streamed if c["logprobs"] for x in c["logprobs"][field]]
        assert of_stream == (choice["logprobs"] or {field: []})[field]


def test_log_probabilities_have_openai_s_lists(texts):
    choice = ChoiceResult("é", "stop", logprobs=[logprobs_of(b) for b in "é".encode()])
    answer = Result([choice], TokenCounts(2, 2))
    choice = json.loads(encoder(texts).encode(answer))["choices"][0]
    assert choice["logprobs"] == {
        "text_offset": [0, 0],
        "token_logprobs": [-1.0, -1.0],
        "tokens": ["\ufffd", "\ufffd"],
        "top_logprobs": [{"\ufffd": -1.0, "z": -0.5}] * 2,
    }


def test_each_choice_echoes_its_own_prompt():
    choices = [ChoiceResult(str(i), "stop") for i in range(4)]
    completions = encoder(choices_each=2, prompts=[PROMPT, PROMPT], echo=["a", "b"])
    completion = json.loads(completions.encode(Result(choices, TokenCounts(4, 4))))
    assert [c["text"] for c in completion["choices"]] == ["a0", "a1", "b2", "b3"]


def test_prompt_log_probabilities_are_by_token(built_in):
    choice = ChoiceResult("x", "stop", prompt_logprobs=[None, logprobs_of(PROMPT[1])])
    completions = encoder(LogprobTexts(built_in.token_texts, prompt_top=1))
    completion = json.loads(completions.encode(Result([choice], TokenCounts(2, 1))))
    assert completion["choices"][0]["prompt_logprobs"] == [
        None,
        {
            str(PROMPT[1]): {"logprob": -1.0, "rank": 2, "decoded_token": "b"},
            str(ord("z")): {"logprob": -0.5, "rank": 1, "decoded_token": "z"},
        },
    ]
    assert completion["choices"][0]["logprobs"] is None
