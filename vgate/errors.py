"""The one tree of errors that V-Gate shows to a client.

Every error has a stable ``code``, an HTTP ``status`` and an OpenAI ``type``. Engines report
failures as codes and facts, which `vgate.frontend.engines.client` turns into these errors. Each
API's room turns them into HTTP responses.
"""

from __future__ import annotations

from typing import ClassVar

# Messages may quote what a client sent, and paths have its names: neither is repeated at length.
_LONGEST = 1000

SHUTTING_DOWN = "the server is shutting down"
_DRAIN_RETRY_AFTER_S = 5.0


class VGateError(Exception):
    """Base of all errors that a client may see.

    Args:
        message: What went wrong and what to do, for the client.
        param: The request field at fault, as a path such as ``messages[0].content``.
        retry_after_s: Seconds after which trying again makes sense, if that is known.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = _shortened(message)
        self.param = None if param is None else _shortened(param)
        self.retry_after_s = retry_after_s


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class InvalidRequestError(VGateError):
    """The request can't be served as it is; sending it again won't help."""

    code = "invalid_request"
    status = 400
    type = "invalid_request_error"


class InvalidJSONError(InvalidRequestError):
    """The body isn't JSON in UTF-8."""

    code = "invalid_json"


class InvalidValueError(InvalidRequestError):
    """A field is missing, has a wrong type or is out of range."""

    code = "invalid_value"


class UnknownParameterError(InvalidRequestError):
    """A field that no supported request has."""

    code = "unknown_parameter"


class UnsupportedParameterError(InvalidRequestError):
    """A known field that this server does not support with that value."""

    code = "unsupported_parameter"


class ContextLengthExceededError(InvalidRequestError):
    """Prompt and requested tokens do not fit the model's context."""

    code = "context_length_exceeded"


class ModelNotFoundError(InvalidRequestError):
    """No model of that name is served."""

    code = "model_not_found"
    status = 404


class AuthenticationError(VGateError):
    """There is no valid API key."""

    code = "invalid_api_key"
    status = 401
    type = "authentication_error"


class RateLimitedError(VGateError):
    """A limit of the API key is reached."""

    code = "rate_limit_exceeded"
    status = 429
    type = "rate_limit_error"


class NotFoundError(InvalidRequestError):
    """No such path."""

    code = "not_found"
    status = 404


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, with another method."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeoutError(InvalidRequestError):
    """The client did not send its whole body in time."""

    code = "request_timeout"
    status = 408


class PayloadTooLargeError(InvalidRequestError):
    """The body is larger than ``server.max_body_bytes``."""

    code = "payload_too_large"
    status = 413


class OverloadedError(VGateError):
    """The queue is full; the request was refused before it waited."""

    code = "overloaded"
    status = 503
    type = "overloaded_error"


class QueueTimeoutError(OverloadedError):
    """The request waited ``timeouts.queue_s`` without being started."""

    code = "queue_timeout"


class EngineUnavailableError(OverloadedError):
    """No engine is ready: it is loading, restarting, or has just died."""

    code = "engine_unavailable"


class LimitsUnavailableError(OverloadedError):
    """The limits of the API key can't be checked, so the request is not served."""

    code = "limits_unavailable"


class ShuttingDownError(OverloadedError):
    """The server drains and takes no new requests."""

    code = "shutting_down"

    def __init__(
        self,
        message: str = SHUTTING_DOWN,
        *,
        param: str | None = None,
        retry_after_s: float | None = _DRAIN_RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class DeadlineExceededError(VGateError):
    """The request ran into ``timeouts.request_s``."""

    code = "deadline_exceeded"
    status = 504
    type = "timeout_error"


class InternalError(VGateError):
    """A fault of ours; the log has the details under the request id."""


def _subclasses(cls: type[VGateError]) -> list[type[VGateError]]:
    return [cls, *(sub for direct in cls.__subclasses__() for sub in _subclasses(direct))]


_BY_CODE = {cls.code: cls for cls in _subclasses(VGateError)}
CODES = tuple(_BY_CODE)


def from_code(
    code: str, message: str, retry_after_s: float | None = None, param: str | None = None
) -> VGateError:
    """Return the error with a code; an unknown code becomes an `InternalError`."""
    cls = _BY_CODE.get(code, InternalError)
    if issubclass(cls, MethodNotAllowedError):  # about HTTP, so it never crosses the wire
        cls = InternalError
    return cls(message, param=param, retry_after_s=retry_after_s)
