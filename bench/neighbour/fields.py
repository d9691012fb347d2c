"""Documents with the most that fits into each list, map and field of any JSON of each request."""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from vgate.config.schema import Server
from vgate.frontend.routes import ROUTES

# What surrounds the items counts too.
ROOM = Server().max_items - 100

# The types of all requests' bodies, by the route's path and their name.
REQUESTS = {
    (route.path, request.__name__): inspect.type_info(request)
    for route in ROUTES
    for request in route.requests
}


def items_of(value: object) -> int:
    """Return how many items of `server.max_items` a value counts as."""
    match value:
        case dict():
            return 1 + sum(2 + items_of(inner) for inner in value.values())
        case list():
            return 1 + sum(map(items_of, value))
        case str():
            return 1
    return 0


def sample(kind: inspect.Type) -> object:
    """Return JSON that a type takes, as short as possible."""
    value: object = 0
    match kind:
        case inspect.Metadata(type=inner):
            value = sample(inner)
        case inspect.UnionType(types=types):
            value = sample(next(t for t in types if not isinstance(t, inspect.NoneType)))
        case inspect.LiteralType(values=values):
            value = values[0]
        case inspect.StrType():
            value = "a"
        case inspect.IntType(ge=least):
            value = least or 1
        case inspect.BoolType():
            value = True
        case inspect.ListType(item_type=item):
            value = [sample(item)]
        case inspect.StructType():
            value = _struct(kind)
        case inspect.DictType():
            value = {}
    return value


def _struct(kind: inspect.StructType) -> dict[str, Any]:
    assert kind.tag is None or kind.tag_field is not None
    value = {} if kind.tag_field is None else {kind.tag_field: kind.tag}
    return value | {f.encode_name: sample(f.type) for f in kind.fields if f.required}


def filled(kind: inspect.Type) -> Iterator[tuple[str, object]]:
    """Yield the path of each list, map and any JSON in a type, and a document with a lot there."""
    match kind:
        case inspect.Metadata(type=inner):
            yield from filled(inner)
        case inspect.UnionType(types=types):
            for inner in types:
                yield from filled(inner)
        case inspect.ListType(item_type=item):
            value = sample(item)
            yield "[]", [value] * (ROOM // max(items_of(value), 1))
            for path, found in filled(item):
                yield f"[]{path}", [found]
        case inspect.DictType():
            yield "{}", {f"k{number}": 0 for number in range(ROOM // 2)}
            yield "{}{}", {"k": {f"k{number}": 0 for number in range(ROOM // 2)}}
        case inspect.AnyType():
            yield "", [0] * (4 * ROOM)
            yield "", [[0]] * ROOM
        case inspect.StructType(fields=fields):
            around = _struct(kind)
            for field in fields:
                for path, found in filled(field.type):
                    yield f".{field.encode_name}{path}", {**around, field.encode_name: found}
