"""Compressed bodies, a byte order mark, and paths that are nearly right."""

import gzip
import sys
import tracemalloc
import zlib
from random import Random

import pytest

from tests.frontend.gateway import chat_body
from vgate.config.schema import Security, Server
from vgate.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError
from vgate.frontend.http.content_encoding import Pieces, add_chunk, decompressed
from vgate.keys import ConfiguredKey

CHAT = "/v1/chat/completions"


def pieces_of(chunks: list[bytes]) -> Pieces:
    pieces: Pieces = []
    for chunk in chunks:
        add_chunk(pieces, chunk)
    return pieces


def test_pieces_have_all_bytes_in_order():
    rng = Random(0)
    for _ in range(50):
        chunks = [rng.randbytes(rng.choice((0, 1, 2, 100, 4095, 4096, 9000))) for _ in range(50)]
        assert b"".join(pieces_of(chunks)) == b"".join(chunks)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_small_chunks_take_little_beside_their_bytes(size):
    chunks = [bytes(range(size)) for _ in range(100_000)]
    assert sum(map(sys.getsizeof, pieces_of(chunks))) < 1.3 * size * len(chunks)


def test_large_chunks_are_not_copied():
    chunks = [bytes(5000), bytes(6000)]
    assert [id(piece) for piece in pieces_of(chunks)] == [id(chunk) for chunk in chunks]


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
def test_what_is_read(encoding, compress):
    assert decompressed(compress(b"x" * 1000), encoding, 1000) == b"x" * 1000
    with pytest.raises(PayloadTooLargeError):
        decompressed(compress(b"x" * 1001), encoding, 1000)
    with pytest.raises(InvalidRequestError, match="is cut"):
        decompressed(compress(b"x" * 1000)[:-3], encoding, 1000)
    with pytest.raises(InvalidRequestError, match="not valid"):
        decompressed(b"{}", encoding, 1000)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_bomb_takes_little_more_memory_than_the_limit(encoding, compress):
    bomb = compress(bytes(100 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLargeError):
            decompressed(bomb, encoding, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "x" * 1000])
def test_what_is_not(encoding):
    with pytest.raises(UnsupportedEncodingError) as caught:
        decompressed(b"", encoding, 1000)
    assert caught.value.status == 415


def test_requests(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "x")
        answer = await gateway.request("POST", CHAT, gzip.compress(body), content_encoding="gzip")
        assert answer.status == 200
        answer = await gateway.request("POST", CHAT, body, content_encoding="br")
        assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
        answer = await gateway.request("POST", CHAT, body, content_encoding="identity")
        assert answer.status == 200
        assert (await gateway.request("POST", CHAT, b"\xef\xbb\xbf" + body)).status == 200
        big = chat_body(gateway, "x" * 5000)
        answer = await gateway.request("POST", CHAT, gzip.compress(big), content_encoding="gzip")
        assert (answer.status, answer.error["code"]) == (413, "payload_too_large")

    serve(scenario, server=Server(max_body_bytes=4096))


def test_paths_that_are_nearly_right(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "x", max_tokens=1)
        for path in (f"{CHAT}/", "/chat/completions", f"/v1{CHAT}", "/chat/completions/"):
            assert (await gateway.request("POST", path, body)).status == 200, path
        for path in ("/models", "/v1/models/", "/v1/v1/models", "/health/", "/"):
            assert (await gateway.request("GET", path)).status == 200, path
        name = gateway.config.model.served_names[0]
        for path in (f"/models/{name}", f"/v1/models/{name}"):
            assert (await gateway.request("GET", path)).json["id"] == name
        assert (await gateway.request("HEAD", "/")).status == 200
        for path in ("/v2/chat/completions", "/v1", "/v1/nothing/", "/v1/v1/v1/models"):
            answer = await gateway.request("GET", path)
            assert (answer.status, answer.error["code"]) == (404, "not_found"), path
        answer = await gateway.request("POST", "/messages/", b"{}")
        assert answer.json["type"] == "error"

    serve(scenario)


def test_no_path_gets_around_the_key(serve):
    async def scenario(gateway):
        for path in ("/v1/models", "/v1/models/", "/models", "/v1/v1/models", "/models/"):
            assert (await gateway.request("GET", path)).status == 401, path
        for path in ("/", "/health", "/health/"):
            assert (await gateway.request("GET", path)).status == 200, path

    key = ConfiguredKey(key="sk-page", name="page")
    serve(scenario, security=Security(enabled=True, api_keys=[key]))
