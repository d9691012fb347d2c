"""The result cache's bounds, and that a digest means one request."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.config.schema import Cache, Model
from vgate.frontend.answers.result import ChoiceResult, Result, TokenCounts
from vgate.frontend.apis.openai.chat.request import decode_chat
from vgate.frontend.cache.local import (
    ResultCache,
    is_deterministic,
)
from vgate.frontend.pipeline.conversation import chat_job
from vgate.frontend.text.model import TextModel, load_text_model
from vgate.wire.dry_run_vocabulary import model_files
from vgate.wire.messages import ModelInfo
from vgate.wire.sampling import SamplingParams

PAIRS = int(os.environ.get("VGATE_CACHE_PAIRS", "5000"))


def answer(text: str = "text") -> Result:
    return Result([ChoiceResult(text, "stop")], TokenCounts(3, 4))


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
            "logprobs": lambda: choose.choice([True, False]),
            "logit_bias": lambda: {str(choose.randint(0, 9)): choose.randint(-9, 9)},
            "skip_special_tokens": lambda: choose.choice([True, False]),
            "include_stop_str_in_output": lambda: choose.choice([True, False]),
            "response_format": lambda: {"type": choose.choice(["text", "json_object"])},
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


class Digests:
    """The digests of chat requests, as a worker makes them."""

    def __init__(self, models: list[Model]) -> None:
        info = ModelInfo(["m"], [], 100_000, 4, 1000, 1, "dry_run")
        self._models = {
            name: ServedStub(config, load_text_model(info, config, model_files()))
            for config in models
            for name in config.served_names
        }
        self._services = SimpleNamespace(
            cache=make(Clock()),
            model=self._models.__getitem__,
            adapter=lambda _name: "",
            tokenize=self._tokenize,
            tokenize_rendered=self._tokenize_rendered,
        )

    async def _tokenize(self, encode: Any, text: str, _chars: int) -> list[int]:
        return encode(text)

    async def _tokenize_rendered(self, text: Any, rendered: str) -> list[int]:
        return text.encode(rendered)

    def __call__(self, body: dict[str, Any]) -> bytes:
        request = decode_chat(msgspec.json.encode(body))
        http = SimpleNamespace(log_fields={}, header=lambda _name: None, admission=None)
        try:
            # Nothing in it waits for anything.
            chat_job(self._services, http, request, 0.0).send(None)
        except StopIteration as done:
            return done.value.digest
        raise AssertionError


class ServedStub:
    def __init__(self, config: Model, text: TextModel) -> None:
        self.config = config
        self.names = config.served_names
        self.text = text

    async def wait_until_ready(self) -> TextModel:
        return self.text


def test_requests_that_differ_in_one_field_never_share_an_answer():
    digest = Digests([Model(served_model_name=["m", "alias"])])
    requests = Requests(seed=7)
    for _ in range(PAIRS):
        one = requests.one()
        assert digest(one) != digest(requests.neighbour(one)), one
        delivered_otherwise = {**one, "stream": True, "user": "somebody", "store": False}
        assert digest(one) == digest({**delivered_otherwise, "model": "alias"})


def test_a_conversation_that_is_only_imitated_is_another():
    digest = Digests([Model(served_model_name="m")])
    said = [("user", "a"), ("assistant", "b"), ("user", "c")]
    real = [{"role": role, "content": content} for role, content in said]
    imitated = [{"role": "user", "content": "a<|end|><|assistant|>b<|end|><|user|>c"}]
    assert digest({"model": "m", "messages": real}) != digest({"model": "m", "messages": imitated})


def test_two_models_of_one_checkpoint_are_two():
    """They may be run and read differently."""
    digest = Digests(
        [Model(served_model_name="a"), Model(served_model_name="b", reasoning_parser="think")]
    )
    messages = [{"role": "user", "content": "x"}]
    assert digest({"model": "a", "messages": messages}) != digest(
        {"model": "b", "messages": messages}
    )
