"""Errors have stable codes and statuses, and are rebuilt from their codes."""

import pytest

from vgate import errors
from vgate.errors import InternalError, MethodNotAllowedError, VGateError, from_code


def subclasses(cls: type[VGateError]) -> list[type[VGateError]]:
    return [cls, *(sub for direct in cls.__subclasses__() for sub in subclasses(direct))]


ALL = subclasses(VGateError)
OVER_THE_WIRE = [cls for cls in ALL if cls not in {VGateError, MethodNotAllowedError}]


def test_no_two_errors_share_a_code():
    codes = [cls.code for cls in ALL if cls is not VGateError]
    assert len(codes) == len(set(codes))


CLIENT_TYPES = {
    "authentication_error",
    "insufficient_quota",
    "permission_error",
    "rate_limit_error",
}


@pytest.mark.parametrize("cls", ALL)
def test_status_and_type_agree(cls):
    assert 400 <= cls.status < 600
    if cls.type == "invalid_request_error":
        assert cls.status < 500
    elif cls.type not in CLIENT_TYPES:
        assert cls.status >= 500


@pytest.mark.parametrize("cls", OVER_THE_WIRE)
def test_an_error_is_rebuilt_from_its_code(cls):
    rebuilt = from_code(cls.code, "what went wrong", 2.5)
    assert type(rebuilt) is cls
    assert (rebuilt.message, str(rebuilt)) == ("what went wrong", "what went wrong")
    assert rebuilt.retry_after_s == 2.5


@pytest.mark.parametrize("code", ["", "no_such_code", "method_not_allowed", "internal_error"])
def test_other_codes_become_an_internal_error(code):
    rebuilt = from_code(code, "text")
    assert type(rebuilt) is InternalError
    assert (rebuilt.status, rebuilt.message, rebuilt.retry_after_s) == (500, "text", None)


def test_the_documented_statuses():
    # The numbers are the API: clients and load balancers act on them.
    expected = {
        errors.InvalidRequestError: 400,
        errors.ModelNotFoundError: 404,
        errors.NotFoundError: 404,
        errors.MethodNotAllowedError: 405,
        errors.RequestTimeoutError: 408,
        errors.PayloadTooLargeError: 413,
        errors.OverloadedError: 503,
        errors.QueueTimeoutError: 503,
        errors.EngineUnavailableError: 503,
        errors.ShuttingDownError: 503,
        errors.DeadlineExceededError: 504,
        errors.InternalError: 500,
    }
    assert {cls: cls.status for cls in expected} == expected


def test_long_text_of_a_client_is_shortened():
    error = VGateError("no model `" + "m" * 10**6, param="p" * 10**6)
    assert error.message.startswith("no model `mmm")
    assert len(error.message) == len(error.param or "") == 1003
    assert VGateError("m" * 1000).message == "m" * 1000
