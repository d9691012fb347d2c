"""Random JSON schemas with bounds, so that a random model completes them soon."""

from random import Random
from typing import Any

_NAMES = ["name", "größe", "a b", "items", "x-1", "kind", "$value", 'quo"te']
_DEEPEST = 3


def random_schema(seed: int) -> dict[str, Any]:
    """Return a schema of an object."""
    rng = Random(seed)
    shared = {f"part{n}": _schema(rng, _DEEPEST - 1, ()) for n in range(rng.randint(0, 2))}
    schema = _object(rng, 0, tuple(shared))
    return {**schema, "$defs": shared} if shared else schema


def _schema(rng: Random, depth: int, shared: tuple[str, ...]) -> dict[str, Any]:
    makers = [_string, _choice, _integer, _number, _plain]
    if depth < _DEEPEST:
        makers += [_array, _object, _any_of]
    if shared:
        makers.append(_reference)
    return rng.choice(makers)(rng, depth, shared)


def _string(rng: Random, _depth: int, _shared: tuple[str, ...]) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"type": "string", "pattern": rng.choice(["^[a-c]{1,4}$", "^(ja|nein)-[0-9]{2}$"])}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 8)}


def _choice(rng: Random, _depth: int, _shared: tuple[str, ...]) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"const": rng.choice([1, "eins", None, True])}
    return {"enum": rng.choice([["rot", "grün", 'b"l\\au'], [1, 2, 30], ["a", 1, None, False]])}


def _integer(rng: Random, _depth: int, _shared: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(-300, 300)
    bounds = {"minimum": least, "maximum": least + rng.randint(0, 1000)}
    return {"type": "integer", **bounds}


def _number(rng: Random, _depth: int, _shared: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(-20, 20)
    return {"type": "number", "minimum": least, "maximum": least + rng.randint(1, 50)}


def _plain(rng: Random, _depth: int, _shared: tuple[str, ...]) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _array(rng: Random, depth: int, shared: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(0, 2)
    return {
        "type": "array",
        "items": _schema(rng, depth + 1, shared),
        "minItems": least,
        "maxItems": least + rng.randint(0, 2),
    }


def _object(rng: Random, depth: int, shared: tuple[str, ...]) -> dict[str, Any]:
    names = rng.sample(_NAMES, rng.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _schema(rng, depth + 1, shared) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }


def _any_of(rng: Random, depth: int, shared: tuple[str, ...]) -> dict[str, Any]:
    return {"anyOf": [_schema(rng, depth + 1, shared) for _ in range(2)]}


def _reference(rng: Random, _depth: int, shared: tuple[str, ...]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{rng.choice(shared)}"}
