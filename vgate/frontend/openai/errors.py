"""Errors as OpenAI's clients expect them. The one place where an error becomes HTTP."""

from __future__ import annotations

import math

import msgspec

from vgate.errors import VGateError


class ErrorBody(msgspec.Struct, frozen=True):
    """The ``error`` object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of an error. ``detail`` is what clients of earlier V-Gate versions read."""

    error: ErrorBody
    detail: str


def error_body(error: VGateError) -> bytes:
    """Encode an error as a response body."""
    body = ErrorBody(error.message, error.type, error.param, error.code)
    return msgspec.json.encode(ErrorResponse(body, error.message))


def error_headers(error: VGateError) -> list[tuple[str, str]]:
    """Return the headers that belong to an error: when to try again, if that is known."""
    if error.retry_after_s is None:
        return []
    return [("retry-after", str(max(1, math.ceil(error.retry_after_s))))]
