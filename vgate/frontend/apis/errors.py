"""The headers of error responses, which are the same in every API."""

import math

from vgate.errors import (
    AuthenticationError,
    BudgetUsedUpError,
    MethodNotAllowedError,
    VGateError,
)
from vgate.frontend.http import JSON, Response


def error_response(error: VGateError, body: bytes) -> Response:
    """Return the response with an error, of which the API has encoded the body."""
    headers = [JSON]
    if (seconds := retry_after(error)) is not None:
        headers.append(("retry-after", str(seconds)))
    if isinstance(error, AuthenticationError):
        headers.append(("www-authenticate", 'Bearer realm="vgate"'))
    if isinstance(error, BudgetUsedUpError):
        # OpenAI's and Anthropic's libraries would try again in a second.
        headers.append(("x-should-retry", "false"))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("allow", error.allow))
    return Response(error.status, body, headers)


def retry_after(error: VGateError) -> int | None:
    """Return after how many seconds a client should retry; None if that isn't known."""
    return None if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
