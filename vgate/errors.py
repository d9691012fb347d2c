"""The errors that a client may see.

Each has a stable code, an HTTP status and an OpenAI ``type``. Engines report failures as codes and
facts; the frontend makes these errors of them, and each API writes them in its own format.
"""

from typing import ClassVar, Self

# Messages and field paths may quote what a client sent, which can be very long.
_MAX_CHARS = 1000

SHUTTING_DOWN = "the server is shutting down"
_DRAIN_RETRY_AFTER_S = 5.0
_BY_CODE: dict[str, type["VGateError"]] = {}


class VGateError(Exception):
    """Base of all errors that a client may see. Subclasses inherit code, status and type.

    Args:
        message: What went wrong and what to do, for the client.
        param: The request field at fault, as a path such as ``messages[0].content``.
        retry_after_s: Seconds until a retry makes sense, if known.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init_subclass__(
        cls, code: str | None = None, status: int | None = None, kind: str | None = None
    ) -> None:
        cls.status, cls.type = status or cls.status, kind or cls.type
        if code is not None:
            cls.code = code
            _BY_CODE[code] = cls

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = _shorten(message)
        self.param = None if param is None else _shorten(param)
        self.retry_after_s = retry_after_s


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."


class InvalidRequestError(
    VGateError, code="invalid_request", status=400, kind="invalid_request_error"
):
    """The request can't be served as it is; sending it again won't help."""


class InvalidJSONError(InvalidRequestError, code="invalid_json"):
    """The body isn't JSON in UTF-8."""


class InvalidValueError(InvalidRequestError, code="invalid_value"):
    """A field is missing, has a wrong type or is out of range."""


class UnknownParameterError(InvalidRequestError, code="unknown_parameter"):
    """The request has a field that the API doesn't have."""


class UnsupportedParameterError(InvalidRequestError, code="unsupported_parameter"):
    """A known field has a value that this server does not support."""


class ContextLengthExceededError(InvalidRequestError, code="context_length_exceeded"):
    """The prompt leaves no room for an answer in the model's context.

    Attributes:
        tokens, limit: Tokens of the prompt, and those that it may have, where they are known.
    """

    tokens: int = 0
    limit: int = 0

    @classmethod
    def of_prompt(
        cls, tokens: int, limit: int, param: str, hint: str = "", *, at_least: bool = False
    ) -> Self:
        """Return the error of a prompt, in OpenAI's words, by which clients recognise it."""
        count = f"at least {tokens}" if at_least else str(tokens)
        what = "messages" if param == "messages" else "input" if "input" in param else "prompt"
        error = cls(
            f"This model's maximum context length is {limit} tokens. However, your {what} resulted "
            f"in {count} tokens. Please reduce the length of the {what}{hint}.",
            param=param,
        )
        error.tokens, error.limit = tokens, limit
        return error


class ModelNotFoundError(InvalidRequestError, code="model_not_found", status=404):
    """No served model has this name."""


class NotFoundError(InvalidRequestError, code="not_found", status=404):
    """There is no such path."""


class StreamNotFoundError(NotFoundError, code="stream_not_found"):
    """No stream is kept for the client, or not this far; it has to ask again."""


class MethodNotAllowedError(InvalidRequestError, code="method_not_allowed", status=405):
    """The path exists, but not with this method; `allow` is the method that it has."""

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class EngineOrderError(InvalidRequestError, code="engine_order_refused", status=409):
    """An engine can't be drained, resumed or restarted now."""


class RequestTimeoutError(InvalidRequestError, code="request_timeout", status=408):
    """The client did not send the whole body in time."""


class UnsupportedEncodingError(InvalidRequestError, code="unsupported_encoding", status=415):
    """The body has a content encoding that the server doesn't read."""


class PayloadTooLargeError(InvalidRequestError, code="payload_too_large", status=413):
    """The body is larger than ``server.max_body_bytes``."""


class AuthenticationError(
    VGateError, code="invalid_api_key", status=401, kind="authentication_error"
):
    """There is no valid API key."""


class ForbiddenError(VGateError, code="forbidden", status=403, kind="permission_error"):
    """A web page of this origin may not use the server, or the API key may not do this."""


class CancelledByAdminError(
    VGateError, code="cancelled_by_admin", status=403, kind="permission_error"
):
    """An admin has ended the request. 403, as client libraries send any 409, 429 or 5xx again."""


class StreamTakenOverError(
    VGateError, code="stream_taken_over", status=409, kind="invalid_request_error"
):
    """Another connection has taken the stream up."""


class RateLimitedError(VGateError, code="rate_limit_exceeded", status=429, kind="rate_limit_error"):
    """A limit of the API key is reached."""


class BudgetUsedUpError(RateLimitedError, code="insufficient_quota", kind="insufficient_quota"):
    """The API key's budget has too few tokens left. The code and the type are OpenAI's."""


class OverloadedError(VGateError, code="overloaded", status=503, kind="overloaded_error"):
    """The queue is full."""


class QueueTimeoutError(OverloadedError, code="queue_timeout"):
    """The request was not started within ``timeouts.queue_s``."""


class EngineUnavailableError(OverloadedError, code="engine_unavailable"):
    """No engine is ready: it is loading, restarting, or has just died."""


class LimitsUnavailableError(OverloadedError, code="limits_unavailable"):
    """The limits of the API key can't be checked."""


class LedgerUnavailableError(OverloadedError, code="ledger_unavailable"):
    """What API keys have used can't be read."""


class WorkerMemoryError(OverloadedError, code="worker_memory"):
    """The worker holds ``server.max_memory_bytes`` for other requests."""


class ShuttingDownError(OverloadedError, code="shutting_down"):
    """The server drains and takes no new requests."""

    def __init__(
        self,
        message: str = SHUTTING_DOWN,
        *,
        param: str | None = None,
        retry_after_s: float | None = _DRAIN_RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class DeadlineExceededError(VGateError, code="deadline_exceeded", status=504, kind="timeout_error"):
    """The request ran longer than ``timeouts.request_s``."""


class InternalError(VGateError, code="internal_error"):
    """A bug in V-Gate; the log has the details under the request id."""


CODES = tuple(_BY_CODE)


def from_code(
    code: str, message: str, retry_after_s: float | None = None, param: str | None = None
) -> VGateError:
    """Return the error with a code; an unknown code becomes an `InternalError`."""
    cls = _BY_CODE.get(code, InternalError)
    if issubclass(cls, MethodNotAllowedError):  # about HTTP, so no engine reports it
        cls = InternalError
    return cls(message, param=param, retry_after_s=retry_after_s)
