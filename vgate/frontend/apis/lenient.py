"""Makes a request that a strict decoder refuses into one that it takes, where nothing is lost.

Clients send fields of other servers and of newer versions. What the API doesn't have is left out
and noted; numbers that came as text become numbers. What still doesn't fit is the client's mistake.
"""

import difflib
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from vgate.frontend.http import Ignored

_Request = TypeVar("_Request")

# Comparing two names takes time in proportion to the product of their lengths.
_LONGEST_GUESSED = 64


class _Shape(NamedTuple):
    """What of a JSON value is to be looked at.

    Attributes:
        objects: The fields of the structs that an object may be, by the value of their tag field.
        tag_field: Where an object has its tag.
        items: The shape of a list's items.
        is_integer: Whether only integers are numbers here.
    """

    objects: "dict[str | int | None, _Fields]"
    tag_field: str | None = None
    items: Any = None
    is_integer: bool = False


_Fields = dict[str, _Shape | None]


@lru_cache(maxsize=256)
def _shape_of(of: Any) -> _Shape | None:
    return _shape(inspect.type_info(of))


def _shape(kind: inspect.Type) -> _Shape | None:
    """Return the shape of a type's values; None if there is nothing to be mended in them."""
    match kind:
        case inspect.Metadata(type=inner):
            return _shape(inner)
        case inspect.ListType(item_type=item):
            shape = _shape(item)
            return None if shape is None else _Shape({}, items=shape)
        case inspect.StructType(fields=fields) if kind.forbid_unknown_fields:
            known = {field.encode_name: _shape(field.type) for field in fields}
            return _Shape({kind.tag: known}, kind.tag_field)
        case inspect.IntType():
            return _Shape({}, is_integer=True)
        case inspect.UnionType(types=types):
            return _union([shape for shape in map(_shape, types) if shape is not None], types)
    return None


def _union(shapes: list[_Shape], types: tuple[inspect.Type, ...]) -> _Shape | None:
    objects = {tag: fields for shape in shapes for tag, fields in shape.objects.items()}
    tag_field = next((shape.tag_field for shape in shapes if shape.tag_field), None)
    items = next((shape.items for shape in shapes if shape.items is not None), None)
    takes_floats = any(isinstance(kind, inspect.FloatType) for kind in types)
    is_integer = not takes_floats and any(shape.is_integer for shape in shapes)
    return _Shape(objects, tag_field, items, is_integer) if shapes else None


def convert(document: Any, of: type[_Request], ignored: Ignored, where: str = "") -> _Request:
    """Convert JSON of builtin types to a struct, without the fields that it doesn't have.

    Args:
        document: The JSON; it is changed.
        of: The struct.
        ignored: Gets the paths of the fields that are left out.
        where: The path of the document in its request.

    Raises:
        UnknownParameterError: `ignored` refuses unknown fields, and there is one.
        msgspec.ValidationError: The rest doesn't fit.
    """
    shape = _shape_of(of)  # type: ignore[arg-type]  # classes are hashable
    if shape is not None:
        _mend(document, shape, where, ignored)
    return msgspec.convert(document, of, strict=False)


def rename(document: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Give the fields of a document their names in the API, where those are free.

    Args:
        document: A request; it is changed.
        renamed: Other servers' names, and the paths of the fields that they stand for.
    """
    for name, path in renamed.items():
        if document.get(name) is None:  # null is the same as leaving a field out
            continue
        outer, _, inner = path.rpartition(".")
        if outer and document.get(outer) is None:
            document[outer] = {}
        target = document[outer] if outer else document
        if isinstance(target, dict) and target.get(inner) is None:
            target[inner] = document.pop(name)


def _mend(value: Any, shape: _Shape, path: str, ignored: Ignored) -> None:
    if isinstance(value, dict) and shape.objects:
        fields = shape.objects.get(None)
        if fields is None:
            tag = value.get(shape.tag_field or "")
            fields = shape.objects.get(tag) if isinstance(tag, str | int) else None
        if fields is not None:
            _mend_object(value, fields, shape.tag_field, path, ignored)
    elif isinstance(value, list) and shape.items is not None:
        for index, item in enumerate(value):
            value[index] = _whole(item, shape.items)
            _mend(item, shape.items, f"{path}[{index}]", ignored)


def _mend_object(
    value: dict[str, Any], fields: _Fields, tag_field: str | None, path: str, ignored: Ignored
) -> None:
    for name in list(value):
        inner_path = f"{path}.{name}" if path else name
        if name in fields:
            inner = fields[name]
            if inner is not None:
                value[name] = _whole(value[name], inner)
                _mend(value[name], inner, inner_path, ignored)
        elif name != tag_field and value.pop(name) is not None:
            # Null is the same as leaving a field out.
            ignored.add_unknown(inner_path, partial(_guess, name, fields))


def _whole(value: Any, shape: _Shape) -> Any:
    """Return an integer for a number such as 2.0, where only integers are taken."""
    if shape.is_integer and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _guess(name: str, fields: _Fields) -> str:
    """Return the field that was probably meant, as the end of a sentence; "" if none is close."""
    if len(name) > _LONGEST_GUESSED:
        return ""
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.75)
    return f"; did you mean `{close[0]}`?" if close else ""
