"""The result cache's bounds, and that a digest means one request."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.config.schema import Cache, Model
from vgate.frontend.finished import Counts, FinishedAnswer, FinishedChoice
from vgate.frontend.openai.requests import decode_chat, shaping_fields, template_messages
from vgate.frontend.result_cache import (
    ResultCache,
    digest_of,
    is_deterministic,
)
from vgate.frontend.text_model import load_text_model
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import ModelInfo
from vgate.wire.sampling import DEFAULTS, SamplingParams

PAIRS = 5_000


def answer(text: str = "text") -> FinishedAnswer:
    return FinishedAnswer([FinishedChoice(text, "stop")], Counts(3, 4))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **settings: Any) -> ResultCache:
    return ResultCache(Cache(**settings), clock=clock)


def test_what_was_stored_is_found(clock):
    cache = make(clock)
    assert cache.get(b"a") is None
    cache.put(b"a", answer())
    assert cache.get(b"a") == answer()
    assert (cache.counts.hits, cache.counts.misses) == (1, 1)


def test_the_least_recently_used_goes_first(clock):
    cache = make(clock, maxsize=2)
    cache.put(b"a", answer())
    cache.put(b"b", answer())
    cache.get(b"a")
    cache.put(b"c", answer())
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.counts.evictions == 1


def test_bytes_are_bounded_and_counted(clock):
    cache = make(clock, max_bytes=2000)
    for number in range(20):
        cache.put(bytes([number]), answer("x" * 100))
        assert cache.size_bytes <= 2000
    before = len(cache)
    cache.put(b"huge", answer("x" * 5000))
    assert len(cache) == before
    for number in range(20):
        cache.put(bytes([number]), answer(""))
    assert cache.size_bytes > 0


def test_replacing_an_entry_does_not_leak_its_size(clock):
    cache = make(clock)
    cache.put(b"a", answer())
    size = cache.size_bytes
    cache.put(b"a", answer())
    assert (len(cache), cache.size_bytes) == (1, size)


def test_entries_grow_old(clock):
    cache = make(clock, ttl_s=10)
    cache.put(b"a", answer())
    clock.now = 9.9
    assert cache.get(b"a") is not None
    clock.now = 10.0
    assert cache.get(b"a") is None
    assert (len(cache), cache.size_bytes, cache.counts.expirations) == (0, 0, 1)


def test_others_get_what_is_stored(clock):
    cache, other = make(clock), make(clock)
    cache.publish = other.receive
    cache.put(b"a", answer())
    assert other.get(b"a") == answer()


@given(message=st.binary(max_size=200))
def test_bytes_of_strangers_are_ignored(message):
    cache = make(Clock())
    cache.receive(message)
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("settings", "sampling", "covered"),
    [
        ({}, SamplingParams(temperature=1.0), True),
        ({"enabled": False}, SamplingParams(temperature=0.0), False),
        ({"maxsize": 0}, SamplingParams(temperature=0.0), False),
        ({"scope": "deterministic"}, SamplingParams(temperature=1.0), False),
        ({"scope": "deterministic"}, SamplingParams(temperature=0.0), True),
        ({"scope": "deterministic"}, SamplingParams(temperature=1.0, seed=1), True),
    ],
)
def test_what_is_cached(clock, settings, sampling, covered):
    assert make(clock, **settings).covers(sampling) == covered


def test_deterministic_is_greedy_or_seeded():
    assert is_deterministic(SamplingParams(temperature=0.0))
    assert not is_deterministic(SamplingParams(temperature=0.1))


class Requests:
    """Random requests, and pairs of them that differ in one field."""

    def __init__(self, seed: int) -> None:
        self.random = choose = random.Random(seed)
        self.fields = {
            "temperature": lambda: round(choose.uniform(0, 2), 2),
            "top_p": lambda: round(choose.uniform(0.1, 1), 2),
            "top_k": lambda: choose.randint(0, 50),
            "min_p": lambda: round(choose.random(), 2),
            "seed": lambda: choose.randint(0, 10),
            "presence_penalty": lambda: round(choose.uniform(-2, 2), 1),
            "frequency_penalty": lambda: round(choose.uniform(-2, 2), 1),
            "repetition_penalty": lambda: round(choose.uniform(0.5, 2), 1),
            "max_tokens": lambda: choose.randint(1, 9),
            "stop": lambda: choose.choice(["a", ["a", "b"], ["b", "a"]]),
            "n": lambda: choose.randint(1, 3),
            "ignore_eos": lambda: choose.choice([True, False]),
            "stop_token_ids": lambda: [choose.randint(0, 9)],
        }

    def text(self) -> str:
        words = ["a", "b", "<|end|>", "<|user|>", "hello", "1", "é"]
        return "".join(self.random.choices(words, k=self.random.randint(1, 6)))

    def one(self) -> dict[str, Any]:
        roles = ["system", "user", "assistant"]
        messages = [
            {"role": self.random.choice(roles), "content": self.text()}
            for _ in range(self.random.randint(1, 4))
        ]
        chosen = {name: make() for name, make in self.fields.items() if self.random.random() < 0.5}
        return {"model": "m", "messages": messages, **chosen}

    def neighbour(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request that differs in one field."""
        other: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(request))
        name = self.random.choice([*self.fields, "messages", "messages"])
        if name == "messages":
            self.random.choice(other["messages"])["content"] += self.random.choice(["x", "<|end|>"])
            return other
        while other.get(name) == request.get(name):
            other[name] = self.fields[name]()
        return other


def test_requests_that_differ_in_one_field_never_share_an_answer():
    info = ModelInfo(["m"], None, 100_000, 4, 1000, 1, "dry_run")
    model = load_text_model(info, Model())

    def digest(body: dict[str, Any]) -> bytes:
        request = decode_chat(msgspec.json.encode(body))
        assert model.template is not None
        prompt = model.encode(model.template.render(template_messages(request.messages)))
        sampling = request.over(DEFAULTS)
        return digest_of(pack_token_ids(prompt), sampling, shaping_fields(request))

    requests = Requests(seed=7)
    for _ in range(PAIRS):
        one = requests.one()
        assert digest(one) != digest(requests.neighbour(one)), one
        delivered_otherwise = {**one, "stream": True, "user": "somebody", "store": False}
        assert digest(one) == digest(delivered_otherwise)
