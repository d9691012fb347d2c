"""Random JSON schemas with bounds, so that a random model completes them soon.

`random_schema` has what every grammar library can follow; `hostile_schema` also has what is easily
got wrong: patterns with quotes, escapes and anchors, formats, exclusive bounds, keywords beside
each other.
"""

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


def hostile_schema(rng: Random) -> dict[str, Any]:
    """Return a schema of an object; some have no value, or a part that can't be followed."""
    shared = {f"part{n}": _hostile(rng, _DEEPEST - 1) for n in range(2)}
    names = rng.sample(_NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _hostile(rng, 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
        "$defs": shared,
    }
    if rng.random() < 0.2:
        schema["minProperties"] = rng.randint(0, len(names))
    return schema


def random_pattern(rng: Random, depth: int = 0) -> str:
    """Return a regular expression of a short text, without anchors."""
    kind = rng.random()
    if depth > 2 or kind < 0.5:
        return rng.choice(_ATOMS)
    if kind < 0.65:
        negated = rng.choice(["", "^"])
        return f"[{negated}x{''.join(rng.choices(_MEMBERS, k=2))}]"
    if kind < 0.8:
        return random_pattern(rng, depth + 1) + random_pattern(rng, depth + 1)
    if kind < 0.9:
        return f"(?:{random_pattern(rng, depth + 1)}|{random_pattern(rng, depth + 1)})"
    return f"({random_pattern(rng, depth + 1)}){rng.choice(['?', '{2}', '{1,3}', '{0,4}?'])}"


# Classes and ranges that contain the characters that JSON escapes, or all but those.
_ATOMS = [
    *("a", "b", '"', r"\\", "\n", r"\n", r"\t", "/", r"\/", "é", r"\u00e9", r"\x41", r"\.", "ß"),
    *(r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", "-", "&", "~", "#", " ", r"\x01", "\x01"),
    *("\x7f", "😀", r"\"", "'", r"\-", r"\u2028", '[^"]', r"[^\\]", r'[^"\\]', r"[\x00-\x1f]"),
]
_MEMBERS = [
    *("a-z", "A-Z", r"\d", r"\s", r"\w", r"\W", r"\S", r"\D", '"', r"\\", "\n", r"\n", "é", "."),
    *(r"\[", r"\]", r"\b", r"\x01-\x1f", "/", r"\-", "^"),
]
_FORMATS = [
    *("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
    *("json-pointer", "password", "binary", "byte", "of-a-kind"),
]


def _hostile(rng: Random, depth: int) -> dict[str, Any]:
    makers = [_text, _text, _text, _bounded, _beside]
    if depth < _DEEPEST:
        makers += [_list, _map]
    return rng.choice(makers)(rng, depth)


def _text(rng: Random, _depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.5:
        schema["minLength"] = rng.randint(0, 3)
    if rng.random() < 0.6:
        schema["maxLength"] = schema.get("minLength", 0) + rng.randint(0, 9)
    if rng.random() < 0.6:
        form = rng.choice(["^{}$", "^(?:{})$", "^{}|x$", "(^{}|y$)", "^{}"])
        schema["pattern"] = form.replace("{}", random_pattern(rng))
    if rng.random() < 0.3:
        schema["format"] = rng.choice(_FORMATS)
    return schema


def _bounded(rng: Random, _depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": rng.choice(["integer", "number"])}
    schema[rng.choice(["minimum", "exclusiveMinimum"])] = rng.choice([-5, 0, 3, 0.1, 2.5])
    schema[rng.choice(["maximum", "exclusiveMaximum"])] = rng.choice([7, 10, 99, 12.5, 100.1])
    if rng.random() < 0.2:
        schema["multipleOf"] = rng.choice([1, 3, 0.5])
    return schema


def _beside(rng: Random, depth: int) -> dict[str, Any]:
    return rng.choice(
        [
            {"$ref": "#/$defs/part0", "description": "d"},
            {"allOf": [_text(rng, depth), {"minLength": 1}]},
            {"anyOf": [_text(rng, depth), {"type": "null"}], "default": None},
            {"oneOf": [_bounded(rng, depth), {"type": "null"}, _text(rng, depth)]},
            {"enum": ['"', "\\", "\n", "\x01", 1.5, None]},
            {"const": {"a\tb": ['"']}},
            {"type": ["string", "null"], "maxLength": 3, "format": "byte"},
        ]
    )


def _list(rng: Random, depth: int) -> dict[str, Any]:
    return {"type": "array", "items": _hostile(rng, depth + 1), "maxItems": rng.randint(0, 3)}


def _map(rng: Random, depth: int) -> dict[str, Any]:
    name = rng.choice([{"pattern": '^[a-z"]{1,3}$'}, {"enum": ["u", 'v"']}])
    return {
        "type": "object",
        "propertyNames": name,
        "additionalProperties": _hostile(rng, depth + 1),
        "maxProperties": 2,
    }


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
