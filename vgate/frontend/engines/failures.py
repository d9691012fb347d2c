"""The engine's failures in the words of an API: the one place that phrases them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vgate.errors import VGateError, from_code
from vgate.wire.messages import Failure

# What every API calls a subject. All others but "prompt" and "constraint" have the field's name.
_FIELDS = {"adapter": "model"}


def to_error(failure: Failure, fields: Mapping[str, str]) -> VGateError:
    """Return the error that a client gets for a failure.

    Args:
        failure: The engine's.
        fields: The request's fields for the subjects "prompt" and "constraint".
    """
    subject, message, param = failure.subject, failure.reason, None
    if subject is not None:
        param = fields.get(subject) or _FIELDS.get(subject, subject)
        message = f"`{param}`: {message}"
    return from_code(failure.code, message, failure.retry_after_s, param)
