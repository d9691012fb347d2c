"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

import msgspec

from vgate.errors import VGateError
from vgate.frontend.apis.errors import error_response, retry_after
from vgate.frontend.http.request import HttpRequest, Response


class ErrorBody(msgspec.Struct, frozen=True):
    """The ``error`` object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error.

    ``detail`` and ``retry_after`` (seconds) are what clients of earlier V-Gate versions read.
    """

    error: ErrorBody
    detail: str
    retry_after: int | None = None


def openai_error(_http: HttpRequest, error: VGateError) -> Response:
    """Return the response to a request that failed."""
    return error_response(error, error_body(error))


def error_body(error: VGateError) -> bytes:
    """Encode an error as a response body."""
    body = ErrorBody(error.message, error.type, error.param, error.code)
    return msgspec.json.encode(ErrorResponse(body, error.message, retry_after(error)))
