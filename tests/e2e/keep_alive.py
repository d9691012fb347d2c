"""A client for suites of thousands of requests: bytes out, answers in, connections kept."""

import asyncio
import json
from collections.abc import Mapping
from time import perf_counter
from typing import Any, NamedTuple, Self

from bench.load.answer import Answer
from bench.load.connection import Connection

TIMEOUT_S = 60


class Reply(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether the body is server-sent events."""
        return "event-stream" in self.headers.get("content-type", "")


def json_post(path: str, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a POST of JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return http_request("POST", path, data, {"content-type": "application/json", **(headers or {})})


def http_request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request with the given headers, unchanged."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        *(f"{n}: {v}" for n, v in headers.items()),
    ]
    if "transfer-encoding" not in headers:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def events(body: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the data of each event of a stream.

    Nothing else may be in it but the comments of one that waits, as on a slow machine.
    """
    assert body.endswith(b"\n\n"), body[-200:]
    found = []
    for block in body[:-2].split(b"\n\n"):
        if block == b": keep-alive":
            continue
        *named, data = block.split(b"\n")
        assert data.startswith(b"data: "), block[:200]
        name = ""
        if named:
            (line,) = named
            assert line.startswith(b"event: "), block[:200]
            name = line[7:].decode()
        found.append((name, data[6:]))
    return found


class Client:
    """One connection, opened when it is needed; it carries one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: _Recording | None = None

    async def send(self, request: bytes, timeout_s: float = TIMEOUT_S) -> Reply:
        """Send a request and return its answer.

        Raises:
            AssertionError: There is no whole answer.
        """
        connection = await self._connected()
        received = _Received(perf_counter())
        await connection.exchange(request, received, timeout_s)
        assert received.error is None, f"{received.error}: {received.detail}"
        return Reply(received.status, connection.headers, b"".join(received.pieces))

    async def leave(self, request: bytes, wait_s: float) -> None:
        """Send a request, and close the connection unless the answer is complete by then."""
        connection = await self._connected()
        received = _Received(perf_counter())
        await connection.exchange(request, received, wait_s)
        connection.close()

    async def _connected(self) -> "_Recording":
        if self._connection is None or not self._connection.usable:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(_Recording, "127.0.0.1", self._port)
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._connection is not None:
            self._connection.close()


class _Received(Answer):
    """Collects the complete answer of any status."""

    __slots__ = ("pieces",)

    def __init__(self, started: float) -> None:
        super().__init__(started)
        self.pieces: list[bytes] = []

    def head(self, status: int, content_type: bytes) -> None:
        self.status = status

    def feed(self, data: bytes, now: float) -> None:
        self.pieces.append(data)

    def end(self, now: float) -> None:
        self.ended = now


class _Recording(Connection):
    """Collects the headers too."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, str] = {}

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
