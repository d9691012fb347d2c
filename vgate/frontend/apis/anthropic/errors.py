"""Errors in Anthropic's format."""

import msgspec

from vgate.errors import ContextLengthExceededError, VGateError
from vgate.frontend.apis.errors import error_response
from vgate.frontend.http import HttpRequest, Response

# The client libraries read the request's id here.
REQUEST_ID_HEADER = "request-id"

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(http: HttpRequest, error: VGateError) -> Response:
    """Return the response to a request that failed."""
    http.set_header(REQUEST_ID_HEADER, http.id)
    return error_response(error, error_body(error, http.id))


def anthropic_event(http: HttpRequest, error: VGateError) -> bytes:
    """Return the event that ends a broken stream. No message_stop follows it."""
    return b"event: error\ndata: " + error_body(error, http.id) + b"\n\n"


def error_body(error: VGateError, request_id: str) -> bytes:
    """Encode an error as the body of a response, or as the data of a stream's `error` event."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    message = error.message
    if isinstance(error, ContextLengthExceededError) and error.tokens:
        # Anthropic's words, by which clients recognise the error.
        message = f"prompt is too long: {error.tokens} tokens > {error.limit} maximum"
    described = {"type": _TYPES.get(error.status, other), "message": message}
    return msgspec.json.encode({"error": described, "request_id": request_id, "type": "error"})
