"""Decodes a body into a request struct, checks fields of any JSON, and explains mistakes."""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from vgate.errors import (
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    UnsupportedParameterError,
)
from vgate.frontend.apis import lenient
from vgate.frontend.http import Ignored, counted, decode_json, is_costly
from vgate.validation import explain, value_at

_Request = TypeVar("_Request")

# Paths of objects that clients know in several types, with the values of `type` that are served.
ServedTypes = tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]

# vLLM's bound for schemas (vllm/sampling_params.py); templates need no more.
MAX_NESTING = 64
# Of a body that isn't JSON; decoding it takes milliseconds at most.
_BEGINNING_BYTES = 8192
# Values of a field of any JSON, which are looked at one by one; that takes a few milliseconds.
MAX_VALUES = 65_536
# The range of msgpack's integers.
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class RawFields(msgspec.Struct):
    """Base of structs whose fields stay JSON, with which other fields of a body are passed over.

    So a body of any kind is decoded at once: that takes up to 9 ms.
    """


# What a field has that isn't given; for clients it is the same.
NULL = msgspec.Raw(b"null")


def decode_request(
    decoder: msgspec.json.Decoder[_Request],
    body: bytes,
    ignored: Ignored,
    types: ServedTypes = (),
    renamed: Mapping[str, str] = {},
    clean: Callable[[dict[str, Any], Ignored], None] | None = None,
) -> _Request:
    """Decode a request's body, without the fields that the API doesn't have.

    Args:
        decoder: Of the request's struct.
        body: JSON in UTF-8.
        ignored: Gets the fields that are left out.
        types: See `ServedTypes`.
        renamed: Other servers' names of fields, and the paths of ours.
        clean: Takes out of a document what isn't served, and notes it; only called for one that
            doesn't fit as it is.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    document = None
    in_pieces = is_costly(body) and not issubclass(decoder.type, RawFields)
    try:
        if not in_pieces:
            return decoder.decode(body)
        document = decode_json(body)
        return msgspec.convert(document, decoder.type, str_keys=True)
    except msgspec.ValidationError as error:
        # Without its traceback, through which it would refer to itself.
        problem = msgspec.ValidationError(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if body.startswith(BOM_UTF8):
            plain = body.removeprefix(BOM_UTF8)
            return decode_request(decoder, plain, ignored, types, renamed, clean)
        if in_pieces:
            _check_beginning(decoder, body, types)
        why = f"not valid JSON in UTF-8: {error}" if body else "empty: send a JSON object"
        raise InvalidJSONError(f"the body is {why}") from None
    except RecursionError:
        if in_pieces:
            _check_beginning(decoder, body, types)
        raise InvalidJSONError("the body is nested too deeply") from None
    if document is None:
        document = document_of(body)
    if document is None:
        # It is no JSON after the field at fault, which an unknown one is not.
        if explain(problem).kind == "unknown":
            raise InvalidJSONError("the body is not valid JSON in UTF-8, or nested too deeply")
        raise _explained(problem, None, types, "")
    if isinstance(document, dict):
        lenient.rename(document, renamed)
        if clean is not None:
            clean(document, ignored)
    return convert_part(document, decoder.type, ignored, types=types)


def _check_beginning(decoder: msgspec.json.Decoder[Any], body: bytes, types: ServedTypes) -> None:
    """Raise the error of a fault in the first fields of a long body that is no JSON further on."""
    try:
        decoder.decode(body[:_BEGINNING_BYTES])
    except msgspec.ValidationError as error:
        if explain(error).kind != "unknown":
            raise _explained(error, None, types, "") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass


def check_json(value: Any, where: str) -> None:
    """Raise `InvalidValueError` for JSON of too many values, too deep or with a large integer."""
    if value is None:  # as nearly always: few requests have such a field
        return
    level = [value]
    count = 1
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
        count += len(inner)
        if count > MAX_VALUES:
            raise _too_many(where)
        level = inner
    message = f"`{where}` must be nested at most {MAX_NESTING} levels deep"
    raise InvalidValueError(message, param=where)


def check_json_text(text: str, where: str) -> None:
    """Raise `InvalidValueError` for text that is JSON of too many values."""
    if len(text) <= MAX_VALUES:
        return
    for _, values in counted(text.encode(errors="replace")):
        if values > MAX_VALUES:
            raise _too_many(where)


def _too_many(where: str) -> InvalidValueError:
    return InvalidValueError(f"`{where}` must have at most {MAX_VALUES} values", param=where)


def convert_part(
    document: Any, of: type[_Request], ignored: Ignored, where: str = "", types: ServedTypes = ()
) -> _Request:
    """Convert the part of a request at path `where`, of builtin types, to a struct.

    Fields that the struct doesn't have are taken out of the document. The paths in `types` start at
    the part.

    Raises:
        InvalidRequestError: With the full path of the field at fault.
    """
    try:
        return lenient.convert(document, of, ignored, where)
    except msgspec.ValidationError as error:
        raise _explained(error, document, types, where, of) from None


def document_of(body: bytes) -> Any:
    """Return a body as builtin types; None if it is not JSON, or nested too deeply."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return decode_json(body)
    return None


def _explained(
    error: msgspec.ValidationError,
    document: Any,
    types: ServedTypes,
    where: str,
    of: Any = None,
) -> InvalidRequestError:
    problem = explain(error, document, of)
    refused = _refused_type(document, problem.path, types, where)
    if refused is not None:
        return refused
    path = problem.path
    if where:
        path = f"{where}.{path}" if path and not path.startswith("[") else where + path
        problem = msgspec.structs.replace(problem, path=path)
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
