"""Paths of fields in errors, for requests that are checked in parts or in another form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from vgate.errors import InvalidRequestError, InvalidValueError, UnknownParameterError
from vgate.validation import explain

_T = TypeVar("_T")

# From a path in what is checked to the path in what the client sent.
Naming = Callable[[str], str]

_QUOTED = re.compile(r"`([a-z_]+(?:[.\[][\w.\[\]$]*)?)`")


def convert(document: Any, of: type[_T], naming: Naming) -> _T:
    """Turn builtin types into a struct.

    Raises:
        InvalidRequestError: They don't fit; with the field's path in what the client sent.
    """
    try:
        return msgspec.convert(document, of)
    except msgspec.ValidationError as error:
        problem = explain(error, document)
        problem = msgspec.structs.replace(problem, path=naming(problem.path))
        kind = UnknownParameterError if problem.kind == "unknown" else InvalidValueError
        raise kind(str(problem), param=problem.path or None) from None


def inside(where: str) -> Naming:
    """Name the fields of a part by their place in the whole."""

    def naming(path: str) -> str:
        return f"{where}.{path}" if path and not path.startswith("[") else where + path

    return naming


class Sources:
    """Where the fields of a translated request come from.

    Args:
        known: Paths in the translated request, with those in the original. The path of a field
            inside of one follows from it.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._known = dict(known)

    def note(self, path: str, source: str) -> None:
        """Tell where a field of the translated request comes from."""
        self._known[path] = source

    def name(self, path: str) -> str:
        """Return a field's path in the original."""
        head = path
        while head:
            if (source := self._known.get(head)) is not None:
                return source + path[len(head) :]
            head = head[: max(head.rfind("."), head.rfind("["), 0)]
        return path

    @contextmanager
    def restating(self) -> Iterator[None]:
        """Have errors about the translated request speak of the original."""
        try:
            yield
        except InvalidRequestError as error:
            text = _QUOTED.sub(lambda quoted: f"`{self.name(quoted[1])}`", error.message)
            param = None if error.param is None else self.name(error.param)
            raise type(error)(text, param=param) from None
