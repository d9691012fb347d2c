"""Errors in Anthropic's format."""

import json

import pytest
from anthropic.types import ErrorResponse

from vgate import errors
from vgate.frontend.apis.anthropic.errors import error_body

TYPES = {
    errors.InvalidValueError: "invalid_request_error",
    errors.ContextLengthExceededError: "invalid_request_error",
    errors.RequestTimeoutError: "invalid_request_error",
    errors.ModelNotFoundError: "not_found_error",
    errors.NotFoundError: "not_found_error",
    errors.AuthenticationError: "authentication_error",
    errors.PayloadTooLargeError: "request_too_large",
    errors.RateLimitedError: "rate_limit_error",
    errors.OverloadedError: "overloaded_error",
    errors.QueueTimeoutError: "overloaded_error",
    errors.EngineUnavailableError: "overloaded_error",
    errors.ShuttingDownError: "overloaded_error",
    errors.DeadlineExceededError: "timeout_error",
    errors.InternalError: "api_error",
}


@pytest.mark.parametrize("kind", TYPES)
def test_the_body(kind):
    body = json.loads(error_body(kind('it\'s "that"'), "req-1"))
    assert body == {
        "type": "error",
        "error": {"type": TYPES[kind], "message": 'it\'s "that"'},
        "request_id": "req-1",
    }
    if TYPES[kind] != "request_too_large":  # the library's types don't have that one
        assert ErrorResponse.model_validate(body, strict=True).error.type == TYPES[kind]


def test_forbidden():
    class ForbiddenError(errors.VGateError, status=403):
        pass

    assert json.loads(error_body(ForbiddenError("no"), "r"))["error"]["type"] == "permission_error"
