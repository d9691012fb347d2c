"""Random values of a type that msgspec describes: valid ones, and ones at their bounds."""

import string
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

_TEXTS = ["", "a", "Hello", "é", "東京 🗼", "\x00", "<think>", '{"a": 1}', "a\nb", "x" * 300]
_LONGEST = 5
_DEEPEST = 4
# Bounds of what may be drawn where a type has none.
_LEAST, _MOST = -3, 40
# A request with more optional fields is nearly always refused for one of them.
_OPTIONAL_FIELDS = (0, 1, 2, 3, 6)


def value_of(rng: Random, kind: inspect.Type, depth: int = 0) -> Any:
    """Return a value that is usually valid for the type."""
    if isinstance(kind, inspect.Metadata):
        return value_of(rng, kind.type, depth)
    make = _MAKERS.get(type(kind))
    return make(rng, kind, depth) if make else any_value(rng, depth)


def any_value(rng: Random, depth: int = 0) -> Any:
    """Return any JSON."""
    kind = rng.randrange(6 if depth < _DEEPEST else 4)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randint(_LEAST, _MOST)
    if kind == 2:
        return rng.choice([0.5, -1.5, 1e10])
    if kind == 3:
        return rng.choice(_TEXTS)
    if kind == 4:
        return [any_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    names = rng.sample(["type", "a", "name", "properties", "text", ""], rng.randint(0, 3))
    return {name: any_value(rng, depth + 1) for name in names}


def fields_of(
    rng: Random, kind: inspect.StructType, *, without: frozenset[str], depth: int = 0
) -> dict[str, Any]:
    """Return the required fields of a struct and some of the others, apart from `without`."""
    fields = [field for field in kind.fields if field.encode_name not in without]
    chosen = [field for field in fields if field.required]
    # Most fields of type Any are there to be refused.
    weights = [0.1 if _is_any(field.type) else 1.0 for field in fields]
    count = rng.choice(_OPTIONAL_FIELDS)
    chosen += rng.choices(fields, weights, k=count) if fields else []
    return {field.encode_name: value_of(rng, field.type, depth + 1) for field in chosen}


def _is_any(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.AnyType) or (
        isinstance(kind, inspect.UnionType) and any(map(_is_any, kind.types))
    )


def _int(rng: Random, kind: inspect.IntType, _depth: int) -> int:
    least = int(kind.ge if kind.ge is not None else _LEAST)
    most = int(kind.le if kind.le is not None else max(least, _MOST))
    near = max(least, _LEAST)
    return rng.choice([least, most, *(rng.randint(near, min(most, near + 20)),) * 6])


def _float(rng: Random, kind: inspect.FloatType, _depth: int) -> float | int:
    least = next((bound for bound in (kind.ge, kind.gt) if bound is not None), _LEAST)
    most = next((bound for bound in (kind.le, kind.lt) if bound is not None), _MOST)
    return rng.choice([least, most, *(rng.uniform(least, most),) * 4])


def _str(rng: Random, kind: inspect.StrType, _depth: int) -> str:
    if kind.pattern is not None or rng.random() < 0.3:
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8)))
    return rng.choice(_TEXTS)[: kind.max_length] or "a" * (kind.min_length or 0)


def _length(rng: Random, kind: inspect.ListType | inspect.DictType) -> int:
    least = kind.min_length or 0
    return rng.randint(least, min(kind.max_length or _LONGEST, least + _LONGEST))


def _list(rng: Random, kind: inspect.ListType, depth: int) -> list[Any]:
    if depth > 2 * _DEEPEST:
        return []
    return [value_of(rng, kind.item_type, depth + 1) for _ in range(_length(rng, kind))]


def _dict(rng: Random, kind: inspect.DictType, depth: int) -> dict[str, Any]:
    return {
        str(value_of(rng, kind.key_type, depth + 1)): value_of(rng, kind.value_type, depth + 1)
        for _ in range(_length(rng, kind))
    }


def _struct(rng: Random, kind: inspect.StructType, depth: int) -> dict[str, Any]:
    shown = fields_of(rng, kind, without=frozenset(), depth=depth)
    return shown if kind.tag_field is None else {kind.tag_field: kind.tag, **shown}


def _union(rng: Random, kind: inspect.UnionType, depth: int) -> Any:
    # Null is the same as nothing, so it is drawn less often than the other types.
    weights = [0.2 if isinstance(one, inspect.NoneType) else 1.0 for one in kind.types]
    (one,) = rng.choices(kind.types, weights)
    return value_of(rng, one, depth)


_MAKERS: dict[type, Any] = {
    inspect.NoneType: lambda *_: None,
    inspect.BoolType: lambda rng, *_: rng.random() < 0.5,
    inspect.LiteralType: lambda rng, kind, _depth: rng.choice(kind.values),
    inspect.IntType: _int,
    inspect.FloatType: _float,
    inspect.StrType: _str,
    inspect.ListType: _list,
    inspect.DictType: _dict,
    inspect.StructType: _struct,
    inspect.UnionType: _union,
}


def struct_type(struct: type[msgspec.Struct]) -> inspect.StructType:
    """Return msgspec's description of a struct."""
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    return kind
