"""What becomes of each field of an API's requests: one policy table an API.

A request struct is its own table. A field is *served* unless its annotation says otherwise. One
marked `ACCEPTED` is taken without effect. One marked `refused(...)` would change the answer in ways
that this server can't, so only its neutral values pass. Bounds are in the types. Validation, the
tables in ``docs/`` and the OpenAPI document are all read off the struct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, UnsupportedParameterError

_Request = TypeVar("_Request", bound=msgspec.Struct)

Kind = Literal["served", "accepted", "refused"]


# Compared by identity: `typing` takes equal annotations for the same one, and 0 equals false.
class FieldPolicy(msgspec.Struct, frozen=True, eq=False):
    """What becomes of one field.

    Attributes:
        neutral: Values with which a refused field changes nothing; they pass. None always does.
        instead: What a client should send instead, as the end of a sentence.
    """

    kind: Kind
    neutral: tuple[Any, ...] = ()
    instead: str = ""


_SERVED = FieldPolicy("served")

# For `Annotated`: the field concerns the platform and not the answer.
ACCEPTED = Meta(
    extra={"policy": FieldPolicy("accepted")}, extra_json_schema={"x-vgate-policy": "accepted"}
)


def refused(*neutral: Any, instead: str = "") -> Meta:
    """Mark a field that would change the answer and isn't served, for `Annotated`.

    Args:
        neutral: Values with which it changes nothing.
        instead: What to send instead.
    """
    schema: dict[str, Any] = {"x-vgate-policy": "refused", "x-vgate-neutral": list(neutral)}
    if instead:
        schema["description"] = instead
    return Meta(
        extra={"policy": FieldPolicy("refused", neutral, instead)}, extra_json_schema=schema
    )


def policies_of(request: type[msgspec.Struct]) -> dict[str, FieldPolicy]:
    """Return the policy of every field of a request by its name in JSON, in the struct's order."""
    hints = get_type_hints(request, include_extras=True)
    names = zip(request.__struct_encode_fields__, request.__struct_fields__, strict=True)
    return {name: _policy_of(hints[attribute]) for name, attribute in names}


def _policy_of(hint: Any) -> FieldPolicy:
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Annotated:
            for meta in part.__metadata__:
                if isinstance(meta, Meta) and meta.extra and "policy" in meta.extra:
                    policy: FieldPolicy = meta.extra["policy"]
                    return policy
    return _SERVED


class RefusedFields(Generic[_Request]):
    """Checks the refused fields of a kind of request, or of a part of one.

    A request nearly never has any of them, so that is one comparison.
    """

    def __init__(self, request: type[_Request]) -> None:
        self._policies = {
            name: policy
            for name, policy in policies_of(request).items()
            if policy.kind == "refused"
        }
        names = zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True)
        self._values = attrgetter(
            *(attribute for attribute, name in names if name in self._policies)
        )
        self._none = None if len(self._policies) == 1 else (None,) * len(self._policies)

    def check(self, request: _Request, where: str = "") -> None:
        """Check a request.

        Args:
            request: The request, or a part of one.
            where: The path of the part, up to its fields' names.

        Raises:
            UnsupportedParameterError: A refused field has a value that would change the answer.
        """
        values = self._values(request)
        if values == self._none:
            return
        several = values if self._none is not None else (values,)
        for (name, policy), value in zip(self._policies.items(), several, strict=True):
            if value is None or any(_same(value, neutral) for neutral in policy.neutral):
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
    """What the fields of a translated request are called in the client's, for errors.

    Args:
        known: Paths in the translated request, with those in the original; `[]` stands for any
            index, and is the same one in both. The path of a field inside of one follows from it.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self._known = {path: source.replace("[]", "[%s]") for path, source in known.items()}

    def name(self, path: str) -> str:
        """Return a field's path in the original."""
        head = path
        while head:
            source = self._known.get(_INDEX.sub("[]", head))
            if source is not None:
                indices = _INDEX.findall(head)[: source.count("%s")]
                return source % tuple(indices) + path[len(head) :]
            head = head[: max(head.rfind("."), head.rfind("["), 0)]
        return path

    def translate(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return an error about the translated request as one about the original."""
        text = _QUOTED.sub(lambda quoted: f"`{self.name(quoted[1])}`", error.message)
        param = None if error.param is None else self.name(error.param)
        return type(error)(text, param=param, retry_after_s=error.retry_after_s)

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Translate errors about the translated request that are raised inside."""
        try:
            yield
        except InvalidRequestError as error:
            raise self.translate(error) from None
