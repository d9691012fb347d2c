"""Decodes a body into a request struct, checks fields of any JSON, and explains mistakes."""

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from vgate.errors import (
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from vgate.validation import explain, value_at

_Request = TypeVar("_Request")

# Paths of objects that clients know in several types, with the values of `type` that are served.
ServedTypes = tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]

# vLLM's bound for schemas (vllm/sampling_params.py); templates need no more.
MAX_NESTING = 64
# The range of msgpack's integers.
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
# Comparing two names takes time in proportion to the product of their lengths.
_LONGEST_GUESSED = 64

# Fields of earlier vLLM versions and of other servers, and the fields that replace them.
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


def decode_request(
    decoder: msgspec.json.Decoder[_Request], body: bytes, types: ServedTypes = ()
) -> _Request:
    """Decode a request's body.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(error, _document_of(body), decoder.type, types) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJSONError(f"the body is not valid JSON in UTF-8: {error}") from None
    except RecursionError:
        raise InvalidJSONError("the body is nested too deeply") from None


def check_json(value: Any, where: str) -> None:
    """Raise `InvalidValueError` for JSON that is nested too deeply or has too large an integer."""
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


def convert_part(
    document: Any, of: type[_Request], where: str, types: ServedTypes = ()
) -> _Request:
    """Convert the part of a request at path `where`, of builtin types, to a struct.

    The paths in `types` start at the part.

    Raises:
        InvalidRequestError: With the full path of the field at fault.
    """
    try:
        return msgspec.convert(document, of)
    except msgspec.ValidationError as error:
        raise _explained(error, document, of, types, where) from None


def _document_of(body: bytes) -> Any:
    """Return a body as builtin types; None if it is not JSON after the decoder's error."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(body)
    return None


def _explained(
    error: msgspec.ValidationError, document: Any, of: Any, types: ServedTypes, where: str = ""
) -> InvalidRequestError:
    problem = explain(error, document)
    refused = _refused_type(document, problem.path, types, where)
    if refused is not None:
        return refused
    path = problem.path
    if where:
        path = f"{where}.{path}" if path and not path.startswith("[") else where + path
        problem = msgspec.structs.replace(problem, path=path)
    if problem.kind == "unknown":
        return UnknownParameterError(f"{problem}{_guess(path, of)}", param=path or None)
    return InvalidValueError(str(problem), param=path or None)


def _refused_type(
    document: Any, path: str, types: ServedTypes, where: str
) -> InvalidRequestError | None:
    """Return the error of an object around the fault, if its type isn't served.

    Such an object may have other fields, and msgspec may have found fault with any of them.
    """
    for pattern, served in types:
        if (found := pattern.match(path)) is None:
            continue
        with suppress(LookupError):
            kind = value_at(document, f"{found[0]}.type")
            if isinstance(kind, str) and kind not in served:
                name = f"{where}.{found[0]}.type".removeprefix(".")
                return unsupported_type(name, kind, served)
    return None


def unsupported_type(path: str, kind: object, served: Iterable[str]) -> InvalidRequestError:
    """Return the error of an object whose type, at `path`, isn't served."""
    allowed = " or ".join(map(repr, served))
    message = f"`{path}` {repr(kind)[:80]} is not supported by this server; use {allowed}"
    return UnsupportedParameterError(message, param=path)


def _guess(name: str, of: Any) -> str:
    """Return the field that was probably meant, as the end of a sentence; "" if none is close."""
    if name in _RENAMED:
        return f"; use `{_RENAMED[name]}`"
    if len(name) > _LONGEST_GUESSED:
        return ""
    close = difflib.get_close_matches(name, getattr(of, "__struct_fields__", ()), n=1, cutoff=0.75)
    return f"; did you mean `{close[0]}`?" if close else ""
