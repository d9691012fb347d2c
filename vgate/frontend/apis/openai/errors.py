"""Errors as OpenAI's clients expect them. The one place where an error becomes HTTP."""

from __future__ import annotations

import math

import msgspec

from vgate.errors import AuthenticationError, MethodNotAllowedError, VGateError


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


def error_body(error: VGateError) -> bytes:
    """Encode an error as a response body."""
    body = ErrorBody(error.message, error.type, error.param, error.code)
    return msgspec.json.encode(ErrorResponse(body, error.message, _retry_after(error)))


def error_headers(error: VGateError) -> list[tuple[str, str]]:
    """Return the headers that belong to an error."""
    headers = []
    if (seconds := _retry_after(error)) is not None:
        headers.append(("retry-after", str(seconds)))
    if isinstance(error, AuthenticationError):
        headers.append(("www-authenticate", 'Bearer realm="vgate"'))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("allow", error.allow))
    return headers


def _retry_after(error: VGateError) -> int | None:
    """Return the whole seconds after which trying again makes sense."""
    return None if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
