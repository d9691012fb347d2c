"""What is checked once the model is known."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.errors import InvalidValueError
from vgate.frontend.apis.openai.chat.request import decode_chat
from vgate.frontend.apis.openai.chat.request import generation_of as of_chat
from vgate.frontend.apis.openai.completions.request import decode_completion
from vgate.frontend.apis.openai.completions.request import generation_of as of_completion
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Generation
from vgate.frontend.pipeline.parameters import check_against_model, prompt_limit
from vgate.wire.messages import ModelInfo

MODEL = ModelInfo(["m"], [], 100, 8, 1000, 1, "dry_run", vocab_size=50, max_logprobs=5)
UNKNOWN_SIZE = ModelInfo(["m"], [], 100, 8, 1000, 1, "dry_run", vocab_size=0)


def chat(**fields: Any) -> Generation:
    hello = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "m", "messages": hello, **fields}).encode()
    return of_chat(decode_chat(body, Ignored()))


def completion(**fields: Any) -> Generation:
    body = json.dumps({"model": "m", "prompt": "Hi", **fields}).encode()
    return of_completion(decode_completion(body, Ignored()))


@pytest.mark.parametrize(
    ("inside", "outside", "param"),
    [
        ({"logit_bias": {"49": 1}}, {"logit_bias": {"50": 1}}, "logit_bias"),
        ({"allowed_token_ids": [0, 49]}, {"allowed_token_ids": [0, 50]}, "allowed_token_ids"),
        ({"stop_token_ids": [49]}, {"stop_token_ids": [50]}, "stop_token_ids"),
        ({"stop_token_ids": []}, {"stop_token_ids": [10**9]}, "stop_token_ids"),
        ({"prompt_logprobs": 5}, {"prompt_logprobs": 6}, "prompt_logprobs"),
        (
            {"truncate_prompt_tokens": 100},
            {"truncate_prompt_tokens": 101},
            "truncate_prompt_tokens",
        ),
    ],
)
@pytest.mark.parametrize("decode", [chat, completion])
def test_what_the_model_has(decode, inside, outside, param):
    check_against_model(decode(**inside), MODEL)
    with pytest.raises(InvalidValueError) as caught:
        check_against_model(decode(**outside), MODEL)
    assert caught.value.param == param


def test_log_probabilities_of_chats():
    check_against_model(chat(logprobs=True, top_logprobs=5), MODEL)
    with pytest.raises(InvalidValueError) as caught:
        check_against_model(chat(logprobs=True, top_logprobs=6), MODEL)
    assert caught.value.param == "top_logprobs"


def test_log_probabilities_of_completions():
    check_against_model(completion(logprobs=5), MODEL)
    with pytest.raises(InvalidValueError) as caught:
        check_against_model(completion(logprobs=6), MODEL)
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize(
    ("prompt", "param"), [([50], "prompt[0]"), ([[1], [2, 50]], "prompt[1]"), ([[1]], None)]
)
def test_prompts_of_token_ids(prompt, param):
    request = completion(prompt=prompt)
    check_against_model(request, UNKNOWN_SIZE)
    if param is None:
        check_against_model(request, MODEL)
        return
    with pytest.raises(InvalidValueError) as caught:
        check_against_model(request, MODEL)
    assert caught.value.param == param


class TestTruncation:
    @pytest.mark.parametrize(
        ("fields", "kept"),
        [
            ({"truncate_prompt_tokens": 2}, [3, 4]),
            ({"truncate_prompt_tokens": 2, "truncation_side": "left"}, [3, 4]),
            ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, [1, 2]),
            ({"truncate_prompt_tokens": 9}, [1, 2, 3, 4]),
            ({"truncate_prompt_tokens": -1}, [2, 3, 4]),
        ],
    )
    def test_what_is_kept(self, fields, kept):
        assert prompt_limit(chat(**fields).truncation, 4).cut([1, 2, 3, 4]) == kept

    @given(
        tokens=st.lists(st.integers(0, 9), min_size=1),
        length=st.integers(1, 20) | st.just(-1),
        limit=st.integers(1, 20),
    )
    def test_it_is_never_empty_and_never_too_long(self, tokens, length, limit):
        kept = prompt_limit(chat(truncate_prompt_tokens=length).truncation, limit).cut(tokens)
        assert 1 <= len(kept) <= max(1, limit - 1 if length < 0 else length)
        assert tokens[-len(kept) :] == kept
