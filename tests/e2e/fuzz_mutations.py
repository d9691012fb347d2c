"""Mutations of a body: of its values, its bytes, and the HTTP around it."""

import copy
import gzip
import json
from collections.abc import Iterator
from random import Random
from typing import Any


class Raw(bytes):
    """Bytes to insert into JSON unchanged."""

    __slots__ = ()


class Twin(str):
    """A name that an object can hold several times."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40,
    1.5, -0.0, 1e308, 5e-324, "", " ", "a", "1", "true", "null", "\x00", "\ufeff", "é" * 100,
    "x" * 5000, [], [[]], {}, {"": None}, [None], [1, "a"], {"type": "text"}, {"role": "user"},
    Raw(b"NaN"), Raw(b"-Infinity"), Raw(b"1e400"), Raw(b"-1e-400"), Raw(b"9" * 400), Raw(b"01"),
    Raw(b"-"), Raw(b"0x10"), Raw(b"undefined"), Raw(b"'a'"), Raw(b'"\\ud800"'), Raw(b'"\\udc00x"'),
    Raw(b'"\xff\xfe"'), Raw(b"\xff"), Raw(b'"\\x"'), Raw(b'"\n"'), Raw(b""),
    Raw(b"[" * 2000 + b"]" * 2000), Raw(b'{"a":' * 100 + b"1" + b"}" * 100),
    Raw(b"[" * 70 + b"]" * 70),
]  # fmt: skip
_NAMES = ["model", "prompt", "messages", "input", "n", "stream", "tools", "zzz", "", "é", "a" * 999]


def encode(value: Any) -> bytes:
    """Return a value as JSON, or as nearly JSON."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, dict):
        return b"{%s}" % b",".join(_text(name) + b":" + encode(v) for name, v in value.items())
    if isinstance(value, list):
        return b"[%s]" % b",".join(map(encode, value))
    return _text(value)


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def mutated(rng: Random, document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with one to three mutations."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if places:
            _mutate(rng, places)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _mutate(rng: Random, places: list[tuple[Any, Any]]) -> None:
    container, key = rng.choice(places)
    other, other_key = rng.choice(places)
    value = container[key]
    # Never the same object twice, which might end up in itself.
    replacement = copy.deepcopy(rng.choice([rng.choice(ODD), rng.choice(ODD), other[other_key]]))
    match rng.randrange(9):
        case 0 | 1 | 2:
            container[key] = replacement
        case 3:
            del container[key]
        case 4:
            container[key] = [value]
        case 5:
            container[key] = {"a": value}
        case 6 if isinstance(container, dict):
            container[Twin(key)] = replacement
        case 7 if isinstance(container, dict):
            container[rng.choice(_NAMES)] = replacement
        case 8 if isinstance(container, dict):
            del container[key]
            container[key[:-1] + rng.choice(("", "s", "é", "."))] = value
        case _ if isinstance(container, list):
            container += [copy.deepcopy(value) for _ in range(rng.choice((1, 20, 200)))]


def damaged(rng: Random, body: bytes) -> bytes:
    """Return a body with mutated bytes."""
    place = rng.randint(0, len(body))
    end = min(len(body), place + rng.randint(1, 20))
    return rng.choice(
        [
            body[:place],
            body[:place] + body[end:],
            body[:place] + rng.randbytes(rng.randint(1, 6)) + body[place:],
            body[:end] + body[place:],
            b"\xef\xbb\xbf" + body,
            body.decode(errors="replace").encode("utf-16"),
            body + rng.choice((b"}", b"\x00", b" \n", body)),
            gzip.compress(body, mtime=0),
            rng.choice((b"", b" ", b"null", b"[]", b'"a"', b"1", b"{}", b"\xff")),
        ]
    )


_METHODS = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW", "post"]
_HEADERS = [
    {"content-type": "text/plain"},
    {"content-type": ""},
    {"content-type": "application/json; charset=utf-16"},
    {"content-type": "multipart/form-data; boundary=a"},
    {"content-encoding": "gzip"},
    {"x-request-id": "x" * 1000},
    {"x-request-id": "a b\té"},
    {"authorization": "Basic eDp5"},
    {"authorization": "Bearer " + "k" * 5000},
    {"x-api-key": "\xff"},
    {"anthropic-version": "1066-10-14"},
    {"cache-control": "no-cache, no-store,,="},
    {"accept": "image/png"},
    {"accept-encoding": "gzip;q=oops"},
    {"expect": "100-continue"},
    {"x-long": "y" * 8000},
    {"connection": "close"},
]


def odd_http(rng: Random, path: str) -> tuple[str, str, dict[str, str]]:
    """Return a method, a path and headers, at least one of them unusual."""
    method, headers = "POST", dict(rng.choice(_HEADERS))
    kind = rng.randrange(4)
    if kind == 0:
        method = rng.choice(_METHODS)
    elif kind == 1:
        path = rng.choice(
            (
                path + "/",
                path + "?a=%00&b",
                path.upper(),
                "/" + path,
                path + "%2e%2e",
                path + "/x/y",
            )
        )
    return method, path, headers


def chunked(rng: Random, body: bytes) -> bytes:
    """Return a body in HTTP's chunks."""
    out = []
    while body:
        size = rng.randint(1, 50)
        piece, body = body[:size], body[size:]
        out.append(b"%x\r\n%s\r\n" % (len(piece), piece))
    return b"".join([*out, b"0\r\n\r\n"])
