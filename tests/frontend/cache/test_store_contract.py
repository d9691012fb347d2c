"""What every store of results promises (`cache/port.py`)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.frontend.cache.stores import STORES
from vgate.config.schema import Cache
from vgate.frontend.answers import ChoiceResult, Result, TokenCounts
from vgate.frontend.cache import ResultStore, StoreUsage


def result(text: str = "text") -> Result:
    return Result([ChoiceResult(text, "stop")], TokenCounts(3, 4))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
def make(request, clock) -> Callable[..., ResultStore]:
    return lambda **settings: STORES[request.param](Cache(**settings), clock)


def get(store: ResultStore, digest: bytes) -> Result | None:
    return asyncio.run(store.get(digest))


def put(store: ResultStore, digest: bytes, *text: Any) -> None:
    asyncio.run(store.put(digest, result(*text)))


def test_what_was_stored_is_found(make):
    store = make()
    assert get(store, b"a") is None
    assert store.usage() == StoreUsage()
    put(store, b"a")
    put(store, b"b", "other")
    assert (get(store, b"a"), get(store, b"b")) == (result(), result("other"))
    assert store.usage().entries == 2
    store.close()


def test_a_newer_result_replaces_an_older_one(make):
    store = make()
    put(store, b"a", "old")
    size = store.usage().size_bytes
    put(store, b"a", "new")
    assert get(store, b"a") == result("new")
    assert store.usage() == StoreUsage(1, size)


def test_the_least_recently_used_is_dropped_first(make):
    store = make(maxsize=2)
    put(store, b"a")
    put(store, b"b")
    get(store, b"a")
    put(store, b"c")
    found = [get(store, digest) is not None for digest in (b"a", b"b", b"c")]
    assert found == [True, False, True]
    assert store.usage().evictions == 1


def test_bytes_are_bounded_and_counted(make):
    store = make(max_bytes=2000)
    for number in range(20):
        put(store, bytes([number]), "x" * 100)
        assert store.usage().size_bytes <= 2000
    before = store.usage().entries
    put(store, b"huge", "x" * 5000)
    assert store.usage().entries == before
    for number in range(20):
        put(store, bytes([number]), "")
    assert store.usage().size_bytes > 0


def test_results_grow_old(make, clock):
    store = make(ttl_s=10)
    put(store, b"a")
    clock.now = 9.9
    assert get(store, b"a") is not None
    clock.now = 10.0
    assert get(store, b"a") is None
    assert store.usage() == StoreUsage(expirations=1)


def test_calls_at_once_keep_the_bounds(make):
    store = make(maxsize=10)

    async def all_at_once() -> None:
        digests = [bytes([number % 20]) for number in range(100)]
        await asyncio.gather(*(store.put(digest, result()) for digest in digests))
        await asyncio.gather(*(store.get(digest) for digest in digests))

    asyncio.run(all_at_once())
    assert store.usage().entries == 10
