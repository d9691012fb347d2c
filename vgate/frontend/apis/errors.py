"""The headers of errors, which do not depend on the API."""

from __future__ import annotations

import math

from vgate.errors import AuthenticationError, MethodNotAllowedError, VGateError
from vgate.frontend.http import JSON, Response


def error_response(error: VGateError, body: bytes) -> Response:
    """Return the response with an error whose body an API has written."""
    headers = [JSON]
    if (seconds := retry_after(error)) is not None:
        headers.append(("retry-after", str(seconds)))
    if isinstance(error, AuthenticationError):
        headers.append(("www-authenticate", 'Bearer realm="vgate"'))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("allow", error.allow))
    return Response(error.status, body, headers)


def retry_after(error: VGateError) -> int | None:
    """Return the whole seconds after which trying again makes sense."""
    return None if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
