"""Answers that gateways share: what is kept in the server, and what a slow or odd one costs."""

import asyncio
import zlib
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from tests.state_server import StateServer, find_server
from vgate.config.schema import Cache, State
from vgate.frontend.answers import ChoiceResult, Result, TokenCounts
from vgate.frontend.cache import second_level
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.cache.second_level import SecondLevel, pack, unpack

needs_server = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)
DIGEST = b"d" * 32
# The look-ups of a busy machine's tests may take longer than a request would wait.
PATIENT = {"cache_timeout_ms": 1000}


def result(text="text"):
    return Result([ChoiceResult(text, "stop")], TokenCounts(3, 4))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def server():
    with StateServer() as started:
        yield started


class Gateways:
    """Several stores with one server."""

    def __init__(self, server, clock, **settings):
        self.server, self.clock = server, clock
        self.settings = State(url=server.url, prefix="p", **PATIENT | settings)
        self.clients = []

    def store(self, **config):
        import redis.asyncio

        config = Cache(**config)
        self.clients.append(redis.asyncio.Redis(port=self.server.port))
        link = SimpleNamespace(client=self.clients[-1], away=None)
        loop = asyncio.get_running_loop()
        local = LocalStore(config, clock=self.clock)
        return SecondLevel(loop, local, link, self.settings, config.ttl_s, clock=self.clock)

    async def written(self, store):
        await asyncio.gather(*store._writes)


@pytest.fixture
def play(server):
    def run(scenario, **settings):
        async def main():
            gateways = Gateways(server, Clock(), **settings)
            client = gateways.store()._client
            await client.flushall()
            try:
                async with asyncio.timeout(60):
                    await scenario(gateways)
            finally:
                for each in gateways.clients:
                    await each.aclose()

        asyncio.run(main())

    return run


@needs_server
def test_an_answer_of_one_gateway_is_found_by_another_and_then_kept_there(play):
    async def scenario(gateways):
        one, two = gateways.store(), gateways.store()
        assert await two.get(DIGEST) is None
        await one.put(DIGEST, result())
        await gateways.written(one)
        assert await two.get(DIGEST) == result()
        await one._client.flushall()
        assert await two.get(DIGEST) == result()

    play(scenario)


@needs_server
def test_an_answer_is_as_old_as_it_was_in_the_server(play):
    async def scenario(gateways):
        one, two = gateways.store(ttl_s=100), gateways.store(ttl_s=100)
        await one.put(DIGEST, result())
        await gateways.written(one)
        (key,) = await one._client.keys()
        assert 0 < await one._client.pttl(key) <= 100_000
        await one._client.pexpire(key, 40_000)
        assert await two.get(DIGEST) == result()
        await one._client.flushall()
        gateways.clock.now += 30
        assert await two.get(DIGEST) == result()
        gateways.clock.now += 15
        assert await two.get(DIGEST) is None

    play(scenario)


@needs_server
@pytest.mark.parametrize("size", [100, 100_000])
def test_answers_are_stored_compressed(play, size):
    async def scenario(gateways):
        one, two = gateways.store(), gateways.store()
        await one.put(DIGEST, result("x" * size))
        await gateways.written(one)
        (key,) = await one._client.keys()
        assert await one._client.strlen(key) < 200
        assert await two.get(DIGEST) == result("x" * size)

    play(scenario)


@needs_server
def test_large_answers_stay_where_they_are(play):
    async def scenario(gateways):
        one = gateways.store()
        await one.put(DIGEST, result("x" * 3000))
        await gateways.written(one)
        assert await one._client.keys() == []
        assert await one.get(DIGEST) == result("x" * 3000)

    play(scenario, cache_entry_bytes=2000)


@needs_server
@pytest.mark.parametrize("odd", [b"", b"zodd", b"?", pack(b"odd"), pack(b"\xc0")])
def test_what_is_no_answer_is_no_hit(play, odd):
    async def scenario(gateways):
        one, two = gateways.store(), gateways.store()
        await one.put(DIGEST, result())
        await gateways.written(one)
        (key,) = await one._client.keys()
        await one._client.set(key, odd)
        assert await two.get(DIGEST) is None

    play(scenario)


@needs_server
def test_a_full_server_keeps_nothing_and_disturbs_nobody(play):
    async def scenario(gateways):
        one = gateways.store()
        await one._client.config_set("maxmemory", 1)
        try:
            await one.put(DIGEST, result())
            await gateways.written(one)
        finally:
            await one._client.config_set("maxmemory", 0)
        assert await one._client.keys() == []
        assert await one.get(DIGEST) == result()

    play(scenario)


@needs_server
def test_a_server_that_is_slow_is_asked_no_more_for_a_while(play, server):
    async def scenario(gateways):
        store = gateways.store()
        assert await store.get(DIGEST) is None
        asked = 0
        fetch = store._fetch

        async def counted(digest):
            nonlocal asked
            asked += 1
            return await fetch(digest)

        store._fetch = counted
        server.pause()
        try:
            for _ in range(20):
                assert await store.get(DIGEST) is None
        finally:
            server.go_on()
        assert asked == 3
        gateways.clock.now += 2
        await store.put(b"other", result())
        await gateways.written(store)
        assert await gateways.store().get(b"other") == result()

    play(scenario, cache_timeout_ms=50)


def test_a_server_that_is_away_is_not_asked():
    async def scenario():
        link = SimpleNamespace(client=None, away="gone")
        local = LocalStore(Cache(), clock=Clock())
        store = SecondLevel(asyncio.get_running_loop(), local, link, State(), 100)
        assert await store.get(DIGEST) is None
        await store.put(DIGEST, result())
        assert await store.get(DIGEST) == result()
        store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("library", ["zlib", "zstandard"])
def test_a_payload_is_bounded_when_it_is_unpacked(monkeypatch, library):
    if library == "zlib":
        monkeypatch.setattr(second_level, "_zstd", lambda: None)
    else:
        pytest.importorskip("zstandard")
    packed = pack(b"x" * 1000)
    assert packed[:1] == (b"z" if library == "zlib" else b"s")
    assert unpack(packed, 1000) == b"x" * 1000
    assert unpack(packed, 999) is None
    assert unpack(packed[:-3], 1000) is None
    assert unpack(b"z" + zlib.compress(b"x" * 50_000_000), 1000) is None
