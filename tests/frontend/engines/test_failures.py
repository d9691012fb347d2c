"""The engine's failures in the words of an API."""

from typing import get_args

import pytest

from vgate import errors
from vgate.engine.request import Code
from vgate.frontend.engines.sequence import to_error
from vgate.wire.messages import Failure

FIELDS = {"prompt": "messages", "constraint": "response_format"}


@pytest.mark.parametrize(
    ("subject", "param"),
    [
        ("prompt", "messages"),
        ("constraint", "response_format"),
        ("adapter", "model"),
        ("bad_words", "bad_words"),
        ("dimensions", "dimensions"),
    ],
)
def test_a_subject_is_named_by_the_request_s_field(subject, param):
    error = to_error(Failure(1, "invalid_value", "is wrong", None, subject), FIELDS)
    assert type(error) is errors.InvalidValueError
    assert (error.param, error.message) == (param, f"`{param}`: is wrong")


def test_a_failure_that_the_request_has_no_part_in():
    error = to_error(Failure(1, "overloaded", "the queue is full", 2.5), FIELDS)
    assert type(error) is errors.OverloadedError
    assert (error.param, error.message) == (None, "the queue is full")
    assert error.retry_after_s == 2.5


@pytest.mark.parametrize("code", get_args(Code))
def test_every_code_of_the_engine_is_an_error(code):
    assert to_error(Failure(1, code, "x"), {}).code == code
