"""Puts load on a running server and measures its streamed answers."""

import asyncio
import random
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from vgate.commands.command import CommandError
from vgate.commands.server import Server

_PATH = "/v1/chat/completions"
_WORDS = ("river", "stone", "cloud", "seven", "paper", "green", "north", "glass", "early", "sound")
_CONNECT_S = 10.0
_AFTER_ERROR_S = 0.5
_MOST_ERROR_BYTES = 4096
_FOR_GOOD = ("400", "401", "403", "404", "413", "422")


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Error(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_read_event = msgspec.json.Decoder(_Event).decode


class Load(msgspec.Struct, frozen=True):
    """What to ask for: so many clients, each with its next request once it has its answer."""

    model: str
    clients: int
    seconds: float
    prompt_words: int
    max_tokens: int


class Measured(msgspec.Struct):
    """What came within the time; times in seconds.

    Attributes:
        complete: Answers that came to their end.
        chunks: Pieces of all answers; `chunks_complete` are those of complete ones.
        failures: How often each error came.
        busy: The share of a processor that this program itself has used.
    """

    load: Load
    seconds: float = 0.0
    complete: int = 0
    chunks: int = 0
    chunks_complete: int = 0
    tokens_complete: int = 0
    ttfts: list[float] = []
    gaps: list[float] = []
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    busy: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all answers; a chunk has as many as one of the complete answers."""
        ratio = self.tokens_complete / self.chunks_complete if self.chunks_complete else 1.0
        return self.chunks * ratio / self.seconds if self.seconds else 0.0


async def measure(server: Server, load: Load) -> Measured:
    """Put the load on the server for its time; what runs at the end is ended.

    Raises:
        CommandError: The server refuses such requests for good.
    """
    measured = Measured(load)
    began, busy = time.perf_counter(), time.process_time()
    clients = [asyncio.create_task(_client(server, measured)) for _ in range(load.clients)]
    try:
        done, _ = await asyncio.wait(
            clients, timeout=load.seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()
    finally:
        measured.seconds = time.perf_counter() - began
        measured.busy = (time.process_time() - busy) / measured.seconds
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return measured


async def _client(server: Server, measured: Measured) -> None:
    while True:
        try:
            await _request(server, measured)
        except (OSError, ValueError, EOFError) as error:  # what is no answer of HTTP or JSON
            measured.failures[str(error) or type(error).__name__] += 1
            await asyncio.sleep(_AFTER_ERROR_S)


async def _request(server: Server, measured: Measured) -> None:
    """Send a request and measure its answer; raise `OSError` or `ValueError` if it fails."""
    url = urllib.parse.urlsplit(server.url)
    port = url.port or (443 if server.tls else 80)
    # Not by `wait_for`, which may lose the cancellation at the end with Python 3.11.
    async with asyncio.timeout(_CONNECT_S):
        reader, writer = await asyncio.open_connection(url.hostname, port, ssl=server.tls)
    try:
        request = _encoded(server, url, measured.load)
        last = began = time.perf_counter()
        writer.write(request)
        chunks = tokens = 0
        async for data in _events(reader):
            if data == b"[DONE]":
                measured.complete += 1
                measured.chunks_complete += chunks
                measured.tokens_complete += tokens or chunks
                return
            event = _read_event(data)
            if event.error is not None:
                raise ValueError(event.error.message)
            if event.usage is not None:
                tokens = event.usage.completion_tokens
            if any(one.delta.content or one.delta.reasoning_content for one in event.choices):
                now = time.perf_counter()
                (measured.gaps if chunks else measured.ttfts).append(now - last)
                last = now
                chunks += 1
                measured.chunks += 1
        raise EOFError(f"the answer was cut off after {time.perf_counter() - began:.1f} s")
    finally:
        writer.transport.abort()  # an answer that is not complete is not wanted any more


def _encoded(server: Server, url: urllib.parse.SplitResult, load: Load) -> bytes:
    # No two prompts begin alike, so that no cache has an answer or a part of one.
    text = " ".join(random.choices(_WORDS, k=load.prompt_words))  # noqa: S311 - no secret
    body = msgspec.json.encode(
        {
            "model": load.model,
            "messages": [{"role": "user", "content": f"{random.getrandbits(64):x} {text}"}],
            "max_tokens": load.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    headers = {
        "Host": url.netloc,
        **server.headers,
        "Cache-Control": "no-store",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {url.path}{_PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of each event of the answer.

    Raises:
        ValueError: The answer is an error, or not HTTP.
        CommandError: The answer is an error that the next one would be as well.
    """
    version, _, rest = (await reader.readline()).decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("the connection ended before the answer" if not version else "no HTTP")
    headers = await _headers(reader)
    pieces = _pieces(reader, chunked="chunked" in headers.get("transfer-encoding", ""))
    if not rest.startswith(f"{HTTPStatus.OK.value} "):
        why = await _refusal(rest.strip(), pieces)
        if rest.startswith(_FOR_GOOD):
            raise CommandError(f"the server refuses such requests, {why}")
        raise ValueError(why)
    buffer = b""
    async for piece in pieces:
        *whole, buffer = (buffer + piece).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data:"):
                yield event[5:].strip()


async def _headers(reader: asyncio.StreamReader) -> Mapping[str, str]:
    headers = {}
    while line := (await reader.readline()).strip().decode("latin-1"):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip().lower()
    return headers


async def _pieces(reader: asyncio.StreamReader, *, chunked: bool) -> AsyncIterator[bytes]:
    """Yield the body as it comes."""
    if not chunked:
        while piece := await reader.read(65536):
            yield piece
        return
    while size := int(await reader.readline() or b"0", 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _refusal(status: str, pieces: AsyncIterator[bytes]) -> str:
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) > _MOST_ERROR_BYTES:
            break
    document: Any = None
    try:
        document = _read_event(body)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return status
    return f"{status}: {document.error.message}" if document.error else status
