"""Policies of request fields, and the names of fields in errors.

A field is *served* unless its annotation is `ACCEPTED` (taken without effect), `ignored(...)`
(without effect; a header names it, unless its value is neutral) or `refused(...)` (it would give
another kind of answer, so only its neutral values pass). Validation, the tables in ``docs/`` and
the OpenAPI document all come from these annotations and the types.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from operator import itemgetter
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, UnsupportedParameterError
from vgate.frontend.http import Ignored

_Request = TypeVar("_Request", bound=msgspec.Struct)


# Compared by identity: `typing` caches equal annotations, and 0 equals false.
class FieldPolicy(msgspec.Struct, frozen=True, eq=False):
    """How one field is handled; `instead` ends a sentence and says what to send instead."""

    kind: Literal["served", "accepted", "ignored", "refused"]
    neutral: tuple[Any, ...] = ()
    instead: str = ""


_SERVED = FieldPolicy("served")

# For `Annotated`: a field that concerns the platform and not the answer.
ACCEPTED = Meta(
    extra={"policy": FieldPolicy("accepted")}, extra_json_schema={"x-vgate-policy": "accepted"}
)


def ignored(*neutral: Any, instead: str = "") -> Meta:
    """Mark a field, for `Annotated`, that is ignored; null and neutral values need no notice."""
    return _meta("ignored", neutral, instead)


def refused(*neutral: Any, instead: str = "") -> Meta:
    """Mark a field, for `Annotated`, of which only null and these neutral values pass."""
    return _meta("refused", neutral, instead)


def _meta(kind: Literal["ignored", "refused"], neutral: tuple[Any, ...], instead: str) -> Meta:
    schema: dict[str, Any] = {"x-vgate-policy": kind, "x-vgate-neutral": list(neutral)}
    if instead:
        schema["description"] = instead
    return Meta(extra={"policy": FieldPolicy(kind, neutral, instead)}, extra_json_schema=schema)


def policies_of(request: type[msgspec.Struct]) -> dict[str, FieldPolicy]:
    """Return the policy of every field by its JSON name, in the struct's order."""
    return {field.encode_name: _policy_of(field.type) for field in msgspec.structs.fields(request)}


def _policy_of(hint: Any) -> FieldPolicy:
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.extra:
                policy: FieldPolicy = meta.extra["policy"]
                return policy
    return _SERVED


class FieldPolicies(Generic[_Request]):
    """Checks the ignored and refused fields of a request or of a part of one.

    Usually one comparison shows that there are none.
    """

    def __init__(self, request: type[_Request]) -> None:
        policies = policies_of(request)
        self._policies = {n: p for n, p in policies.items() if p.kind in {"ignored", "refused"}}
        self._values = itemgetter(
            *(at for at, name in enumerate(policies) if name in self._policies)
        )
        self._none = None if len(self._policies) == 1 else (None,) * len(self._policies)

    def check(self, request: _Request, ignored: Ignored, where: str = "") -> None:
        """Add the names of ignored fields to `ignored`; `where` precedes each.

        Raises:
            UnsupportedParameterError: There is a refused field.
        """
        values = self._values(msgspec.structs.astuple(request))
        if values == self._none:
            return
        values = values if self._none is not None else (values,)
        for (name, policy), value in zip(self._policies.items(), values, strict=True):
            if value is None or any(_same(value, neutral) for neutral in policy.neutral):
                continue
            if policy.kind == "ignored":
                ignored.add(f"{where}{name}")
                continue
            instead = f"; {policy.instead}" if policy.instead else ""
            message = f"`{where}{name}` is not supported by this server{instead}"
            raise UnsupportedParameterError(message, param=f"{where}{name}")


def _same(value: Any, neutral: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


_QUOTED = re.compile(r"`([a-z_]+(?:[.\[][\w.\[\]$]*)?)`")
_INDEX = re.compile(r"\[(\d+)\]")


class FieldMap:
    """Renames the fields of a generation, in errors, to those of the client's request.

    `known` maps paths, in which `[]` stands for any index. Paths inside them are renamed too.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._known = {path: source.replace("[]", "[%s]") for path, source in known.items()}

    def name(self, path: str) -> str:
        """Return a field's path in the client's request."""
        head = path
        while head:
            source = self._known.get(_INDEX.sub("[]", head))
            if source is not None:
                indices = _INDEX.findall(head)[: source.count("%s")]
                return source % tuple(indices) + path[len(head) :]
            head = head[: max(head.rfind("."), head.rfind("["), 0)]
        return path

    def translate(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return an error about a generation as one about the client's request."""
        text = _QUOTED.sub(lambda quoted: f"`{self.name(quoted[1])}`", error.message)
        translated = copy(error)
        translated.message = text
        translated.param = None if error.param is None else self.name(error.param)
        return translated

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate the errors that are raised inside."""
        try:
            yield
        except InvalidRequestError as error:
            raise self.translate(error) from None
