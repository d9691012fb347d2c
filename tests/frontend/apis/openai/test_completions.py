"""Completions: whole and streamed say the same, echo and log probabilities included."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.apis.openai.test_chat import chunks_of
from vgate.frontend.answers.encoder import ChoiceDelta
from vgate.frontend.answers.result import ChoiceResult, Result, TokenCounts
from vgate.frontend.apis.openai.completions.response import (
    CompletionEncoder,
    CompletionResponseOptions,
)
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.wire.messages import Logprobs

PROMPT = list(b"ab")


def place_of(token):
    return Logprobs([token, ord("z")], [-1.0, -0.5], 2)


@pytest.fixture
def texts(built_in):
    return LogprobTexts(built_in.token_texts)


def form(texts=None, **fields):
    return CompletionResponseOptions(
        **{
            "id": "cmpl-1",
            "created": 7,
            "model": "m",
            "choices_each": 1,
            "prompts": [PROMPT],
            "texts": texts,
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
def test_a_stream_says_what_the_whole_answer_says(built_in, parts, echo, logprobs, token_ids):
    asked = form(
        LogprobTexts(built_in.token_texts) if logprobs is not None else None,
        echo=["ab"] if echo else None,
        logprobs=logprobs,
        return_token_ids=token_ids,
    )
    told = logprobs is not None
    tokens = [list(part.encode()) for part in parts]
    places = [[place_of(token) for token in part] for part in tokens]
    prompt_places = [None, place_of(PROMPT[1])] if told and echo else None
    stream = CompletionEncoder(asked).stream_encoder()
    stream.counts = lambda: TokenCounts(2, 3)
    data = stream.begin() + stream.open(0, prompt_places)
    for part, ids, told_of in zip(parts, tokens, places, strict=True):
        if told or token_ids:
            piece = ChoiceDelta(
                part, logprobs=told_of if told else None, token_ids=ids if token_ids else None
            )
            data += stream.delta(0, piece)
        else:
            data += stream.text(0, part)
    chunks = chunks_of(data + stream.finish(0, "length", None) + stream.end())
    choice = ChoiceResult(
        "".join(parts),
        "length",
        logprobs=[place for part in places for place in part] if told else None,
        token_ids=[token for part in tokens for token in part] if token_ids else None,
        prompt_logprobs=prompt_places,
    )
    whole = json.loads(CompletionEncoder(asked).whole(Result([choice], TokenCounts(2, 3))))
    (choice,) = whole["choices"]
    streamed = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["text"] for c in streamed) == choice["text"]
    assert streamed[-1]["finish_reason"] == choice["finish_reason"]
    assert [t for c in streamed for t in c.get("token_ids", [])] == choice.get("token_ids", [])
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        of_stream = [x for c in streamed if c["logprobs"] for x in c["logprobs"][field]]
        assert of_stream == (choice["logprobs"] or {field: []})[field]


def test_log_probabilities_have_openai_s_lists(texts):
    choice = ChoiceResult("é", "stop", logprobs=[place_of(b) for b in "é".encode()])
    answer = Result([choice], TokenCounts(2, 2))
    shown = json.loads(CompletionEncoder(form(texts, logprobs=1)).whole(answer))["choices"][0]
    assert shown["logprobs"] == {
        "text_offset": [0, 1],
        "token_logprobs": [-1.0, -1.0],
        "tokens": ["\ufffd", "\ufffd"],
        "top_logprobs": [{"\ufffd": -1.0, "z": -0.5}] * 2,
    }


def test_each_choice_echoes_its_own_prompt():
    choices = [ChoiceResult(str(i), "stop") for i in range(4)]
    asked = form(choices_each=2, prompts=[PROMPT, PROMPT], echo=["a", "b"])
    whole = json.loads(CompletionEncoder(asked).whole(Result(choices, TokenCounts(4, 4))))
    assert [c["text"] for c in whole["choices"]] == ["a0", "a1", "b2", "b3"]


def test_prompt_log_probabilities_are_by_token(texts):
    choice = ChoiceResult("x", "stop", prompt_logprobs=[None, place_of(PROMPT[1])])
    asked = form(texts, prompt_logprobs=1)
    whole = json.loads(CompletionEncoder(asked).whole(Result([choice], TokenCounts(2, 1))))
    assert whole["choices"][0]["prompt_logprobs"] == [
        None,
        {
            str(PROMPT[1]): {"logprob": -1.0, "rank": 2, "decoded_token": "b"},
            str(ord("z")): {"logprob": -0.5, "rank": 1, "decoded_token": "z"},
        },
    ]
    assert whole["choices"][0]["logprobs"] is None
