"""From a body to a request struct, with every mistake explained.

What msgspec's types can't say of values that are any JSON is checked here too.
"""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

import msgspec

from vgate.errors import (
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
)
from vgate.validation import explain

_Request = TypeVar("_Request")

# vLLM's bound for schemas (vllm/sampling_params.py); templates need no more.
MAX_NESTING = 64
# What msgpack can carry.
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

# Comparing names costs the product of their lengths.
_LONGEST_GUESSED = 64

# Fields of earlier vLLM versions and of other servers, and what has taken their place.
_RENAMED = {
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "num_predict": "max_tokens",
}


def decode_request(decoder: msgspec.json.Decoder[_Request], body: bytes) -> _Request:
    """Decode a request's body.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(error, body, decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the body is not valid JSON in UTF-8: {error}"
        raise InvalidJSONError(message) from None
    except RecursionError:
        message = "the body is nested too deeply"
        raise InvalidJSONError(message) from None


def check_json(value: Any, where: str) -> None:
    """Check a value that may be any JSON: how deep it is, and that its numbers can be carried.

    Raises:
        InvalidValueError: It is too deep or has an integer of more than 64 bits.
    """
    if value is None:
        return
    level = [value]
    for _ in range(MAX_NESTING + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, int) and not _INT_MIN <= item <= _INT_MAX:
                message = f"`{where}` has an integer of more than 64 bits"
                raise InvalidValueError(message, param=where)
        if not inner:
            return
        level = inner
    message = f"`{where}` must be nested at most {MAX_NESTING} levels deep"
    raise InvalidValueError(message, param=where)


def _explained(error: msgspec.ValidationError, body: bytes, of: Any) -> InvalidRequestError:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The decoder stops at the first fault; what comes after it need not be JSON at all.
        document = None
    problem = explain(error, document)
    if problem.kind != "unknown":
        return InvalidValueError(str(problem), param=problem.path or None)
    message = f"{problem}{_guess(problem.path, of)}"
    return UnknownParameterError(message, param=problem.path or None)


def _guess(name: str, of: Any) -> str:
    """Return the field that was probably meant, as the end of a sentence, or nothing."""
    if name in _RENAMED:
        return f"; use `{_RENAMED[name]}`"
    if len(name) > _LONGEST_GUESSED:
        return ""
    close = difflib.get_close_matches(name, getattr(of, "__struct_fields__", ()), n=1, cutoff=0.75)
    return f"; did you mean `{close[0]}`?" if close else ""
