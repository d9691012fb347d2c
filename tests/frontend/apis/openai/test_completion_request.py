"""What a completion request may hold beyond what it shares with chat requests."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.gateway import post
from vgate.config.model import Model
from vgate.errors import InvalidRequestError, VGateError
from vgate.frontend.apis.openai.completions.request import (
    DEFAULT_MAX_TOKENS,
    MAX_ANSWERS,
    MAX_REPEATED_TOKENS,
    CompletionRequest,
    decode_completion,
    generation_of,
)
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline.generation import shape_of


def decode(ignored: Ignored | None = None, **fields: Any) -> CompletionRequest:
    body = json.dumps({"model": "m", "prompt": "Hi", **fields}).encode()
    return decode_completion(body, ignored or Ignored())


def refusal(**fields: Any) -> VGateError:
    with pytest.raises(InvalidRequestError) as caught:
        decode(Ignored(refuse_unknown=True), **fields)
    assert caught.value.status == 400
    return caught.value


class TestPrompt:
    @pytest.mark.parametrize(
        ("prompt", "prompts"),
        [
            ("Hi", ["Hi"]),
            (["a", "b"], ["a", "b"]),
            ([1, 2], [[1, 2]]),
            ([[1, 2], [3]], [[1, 2], [3]]),
            ([0], [[0]]),
        ],
    )
    def test_prompts(self, prompt, prompts):
        assert decode(prompt=prompt).prompts == prompts

    @pytest.mark.parametrize(
        "prompt",
        [
            *("", [], [""], [[]], [["a"]], ["a", 1], [1, [2]], ["a", [1]], [-1], [2**31], [1.5]),
            *(None, 5, {}, [None], [True]),
        ],
    )
    def test_bad_prompts(self, prompt):
        assert refusal(prompt=prompt).param.startswith("prompt")

    def test_it_is_required(self):
        with pytest.raises(InvalidRequestError) as caught:
            decode_completion(b'{"model": "m"}', Ignored())
        assert caught.value.param == "prompt"

    def test_how_many_answers(self):
        decode(prompt=["a"] * MAX_ANSWERS)
        decode(prompt=[1] * (MAX_ANSWERS + 1))
        decode(prompt=["a"] * (MAX_ANSWERS // 2), n=2)
        assert refusal(prompt=["a"] * (MAX_ANSWERS + 1)).param == "prompt"
        assert refusal(prompt=["a"] * (MAX_ANSWERS // 2 + 1), n=2).param == "prompt"

    @pytest.mark.parametrize("field", ["echo", "return_token_ids"])
    def test_how_many_times_they_are_repeated(self, serve, field):
        async def scenario(gateway):
            prompt = "a" * (MAX_REPEATED_TOKENS // 64)
            for prompts, n in ((prompt, 64), ([prompt] * 65, 1)):
                fields = {"prompt": prompts, "n": n, "max_tokens": 1, field: True}
                assert (await post(gateway, "/v1/completions", fields)).status == 200
            fields = {"prompt": prompt, "n": 65, "max_tokens": 1, field: True}
            answer = await post(gateway, "/v1/completions", fields)
            assert (answer.status, answer.error["param"]) == (400, "n")

        serve(scenario, model=Model(max_model_len=16_384))


class TestLimit:
    def test_its_default_is_openai_s(self):
        assert decode().token_limit == DEFAULT_MAX_TOKENS == 16
        assert decode(max_tokens=None).token_limit == 16
        assert decode(max_tokens=5).token_limit == 5

    def test_nothing_new_only_with_an_echo(self):
        assert decode(max_tokens=0, echo=True).token_limit == 0
        assert generation_of(decode(max_tokens=0, echo=True)).sampling.max_tokens is None
        assert refusal(max_tokens=0).param == "max_tokens"
        assert refusal(max_tokens=0, echo=False).param == "max_tokens"
        assert refusal(max_tokens=-2, echo=True).param == "max_tokens"

    @pytest.mark.parametrize("name", ["max_tokens", "num_predict"])
    def test_minus_one_is_no_limit(self, name):
        request = decode(**{name: -1}, min_tokens=100)
        generation = generation_of(request)
        assert (request.token_limit, generation.sampling.max_tokens) == (None, None)
        assert not generation.prompt.only

    def test_min_tokens_has_to_fit_the_default_too(self):
        decode(min_tokens=16)
        assert refusal(min_tokens=17).param == "min_tokens"


@pytest.mark.parametrize(
    ("fields", "wanted", "of_prompt"),
    [
        ({}, None, None),
        ({"logprobs": 0}, 0, None),
        ({"logprobs": True}, 1, None),
        ({"logprobs": False}, None, None),
        ({"logprobs": False, "echo": True}, None, None),
        ({"logprobs": 5}, 5, None),
        ({"logprobs": 5, "echo": True}, 5, 5),
        ({"echo": True}, None, None),
        ({"prompt_logprobs": 2}, None, 2),
        ({"prompt_logprobs": 2, "logprobs": 5, "echo": True}, 5, 2),
    ],
)
def test_log_probabilities(fields, wanted, of_prompt):
    request = decode(**fields)
    generation = generation_of(request)
    assert (generation.logprobs, generation.prompt_logprobs) == (wanted, of_prompt)


@pytest.mark.parametrize("value", [-2, 1.5, "x"])
def test_log_probabilities_are_a_number(value):
    assert refusal(logprobs=value).param == "logprobs"


@pytest.mark.parametrize(
    ("name", "neutral", "other"), [("suffix", "", "x"), ("best_of", 1, 2), ("echo", False, None)]
)
def test_neutral_values(name, neutral, other):
    decode(**{name: neutral})
    if other is not None:
        assert refusal(**{name: other}).param == name


@pytest.mark.parametrize("name", ["messages", "tools", "top_logprobs", "reasoning_effort"])
def test_fields_of_chats_are_unknown(name):
    error = refusal(**{name: []})
    assert (error.code, error.param) == ("unknown_parameter", name)
    ignored = Ignored()
    decode(ignored, **{name: []})
    assert ignored.names == [name]


def test_what_shapes():
    def shape(**fields):
        return shape_of(generation_of(decode(**fields)))

    assert shape(stream=True, user="u") == shape()
    # An echo is put before the answer when it is shown; its log probabilities are generated.
    assert shape(echo=True) == shape()
    assert shape(echo=True, logprobs=1) != shape(logprobs=1)
    assert shape(prompt="Ho") != shape()


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(CompletionRequest.__struct_fields__),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)
def test_any_value_of_any_field_is_served_or_refused(name, value):
    try:
        decode(**{name: value})
    except InvalidRequestError as error:
        assert error.message  # noqa: PT017 - both ends are right
