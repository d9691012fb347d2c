"""Errors in OpenAI's format, and the two that a check of a request raises."""

import msgspec

from vgate.errors import InvalidValueError, UnsupportedParameterError, VGateError
from vgate.frontend.apis.errors import error_response, retry_after
from vgate.frontend.http import HttpRequest, Response


class ErrorBody(msgspec.Struct, frozen=True):
    """The ``error`` object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error response."""

    error: ErrorBody
    # Clients of earlier V-Gate versions read these two; the second is in seconds.
    detail: str
    retry_after: int | None = None


def openai_error(_http: HttpRequest, error: VGateError) -> Response:
    """Return the response to a request that failed."""
    return error_response(error, error_body(error))


def openai_event(_http: HttpRequest, error: VGateError) -> bytes:
    """Return the event that ends a broken stream. No [DONE] follows it."""
    return b"data: " + error_body(error) + b"\n\n"


def error_body(error: VGateError) -> bytes:
    """Encode an error as a response body."""
    body = ErrorBody(error.message, error.type, error.param, error.code)
    return msgspec.json.encode(ErrorResponse(body, error.message, retry_after(error)))


def invalid(path: str, problem: str) -> InvalidValueError:
    """Return the error of an invalid field; `problem` follows the field's name in the message."""
    return InvalidValueError(f"`{path}` {problem}", param=path)


def unsupported(path: str, problem: str) -> UnsupportedParameterError:
    """Return the error of a field whose value this server does not support."""
    return UnsupportedParameterError(f"`{path}` {problem}", param=path)
