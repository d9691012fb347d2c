"""One definition of every sampling parameter: bounds, defaults, and how a request merges."""

import msgspec
import pytest

from vgate.wire.parameters import DEFAULTS, SamplingParams

# A valid value that differs from the default, for every parameter.
OTHER = {
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 7,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
    "max_tokens": 9,
    "min_tokens": 3,
    "stop_token_ids": [1],
    "ignore_eos": True,
    "logit_bias": {3: -1.5},
    "allowed_token_ids": [2, 3],
}
# A value with which a parameter is given, though it is false in Python's sense.
FALSY = {
    "temperature": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
    "top_k": 0,
    "min_p": 0.0,
    "min_tokens": 0,
    "stop_token_ids": [],
    "ignore_eos": False,
    "logit_bias": {},
}


def test_this_file_knows_every_parameter():
    assert set(OTHER) == set(SamplingParams.__struct_fields__)


@pytest.mark.parametrize("name", SamplingParams.__struct_fields__)
def test_what_is_given_wins(name):
    merged = SamplingParams(**{name: OTHER[name]}).over(DEFAULTS)
    assert getattr(merged, name) == OTHER[name]
    for other in set(SamplingParams.__struct_fields__) - {name}:
        assert getattr(merged, other) == getattr(DEFAULTS, other)


@pytest.mark.parametrize("name", SamplingParams.__struct_fields__)
def test_what_is_not_given_comes_from_the_defaults(name):
    merged = SamplingParams().over(SamplingParams(**{name: OTHER[name]}))
    assert merged == SamplingParams(**{name: OTHER[name]})


@pytest.mark.parametrize("name", FALSY)
def test_zero_and_false_are_given(name):
    merged = SamplingParams(**{name: FALSY[name]}).over(SamplingParams(**OTHER))
    assert getattr(merged, name) == FALSY[name]


def test_a_length_comes_before_both():
    given, defaults = SamplingParams(max_tokens=5, top_k=3), SamplingParams(max_tokens=7)
    assert given.over(defaults, max_tokens=9) == SamplingParams(max_tokens=9, top_k=3)


def test_a_request_merges_to_plain_parameters():
    class Request(SamplingParams, kw_only=True, frozen=True):
        model: str = ""

    merged = Request(temperature=0.1, model="m").plain(max_tokens=None).over(DEFAULTS)
    assert type(merged) is SamplingParams


def test_the_defaults_leave_open_only_what_has_none():
    missing = {name for name in SamplingParams.__struct_fields__ if getattr(DEFAULTS, name) is None}
    assert missing == {
        "seed",
        "max_tokens",
        "stop_token_ids",
        "logit_bias",
        "allowed_token_ids",
    }


def test_the_defaults_are_within_the_bounds():
    assert msgspec.convert(msgspec.to_builtins(DEFAULTS), SamplingParams) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("temperature", [0, 2, 9], [-0.01]),
        ("top_p", [0.001, 1], [0, 1.01]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("seed", [-(2**63), 2**63 - 1], [-(2**63) - 1, 2**63]),
        ("top_k", [-1, 0, 100], [-2, 2**70]),
        ("min_p", [0, 1], [-0.1, 1.1]),
        ("repetition_penalty", [0.1, 2, 9], [0, -1]),
        ("max_tokens", [1], [0, -1]),
        ("min_tokens", [0], [-1, 2**70]),
        ("stop_token_ids", [[], [0, 2**31 - 1], [1] * 1024], [[-1], [2**31], [1] * 1025, ["a"]]),
        ("ignore_eos", [True, False], [0, "true"]),
    ],
)
def test_bounds(name, inside, outside):
    for value in inside:
        assert getattr(msgspec.convert({name: value}, SamplingParams), name) == value
    for value in outside:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: value}, SamplingParams)
