"""Errors in the shape that OpenAI's clients read."""

import json

import pytest

from vgate.errors import InvalidValueError, OverloadedError
from vgate.frontend.apis.errors import error_response
from vgate.frontend.apis.openai.errors import error_body
from vgate.frontend.http import JSON


def test_the_body():
    error = InvalidValueError("too hot", param="temperature")
    assert json.loads(error_body(error)) == {
        "error": {
            "message": "too hot",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        },
        "detail": "too hot",
    }


def test_param_is_null_where_no_field_is_at_fault():
    assert json.loads(error_body(OverloadedError("full")))["error"]["param"] is None


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(None, []), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (60, "60")],
)
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds, header):
    expected = header if header == [] else [("retry-after", header)]
    response = error_response(OverloadedError("full", retry_after_s=seconds), b"{}")
    assert response.headers == [JSON, *expected]
