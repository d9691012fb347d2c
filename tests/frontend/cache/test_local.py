"""What workers send each other, what is stored at all, and that a digest means one request."""

import asyncio
import os
import random
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.config.model import Model
from vgate.config.schema import Cache, Config
from vgate.engine.backends.dry_run.vocabulary import built_in_files
from vgate.frontend.answers import ChoiceResult, Result, TokenCounts
from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.cache.digest import covers
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.engines.registry import ModelRegistry
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline.job import make_job
from vgate.frontend.pipeline.prepare import Tokenization
from vgate.frontend.text import TextModel, load_text_model
from vgate.wire.messages import ModelInfo
from vgate.wire.parameters import SamplingParams

PAIRS = int(os.environ.get("VGATE_CACHE_PAIRS", "5000"))


def answer(text: str = "text") -> Result:
    return Result([ChoiceResult(text, "stop")], TokenCounts(3, 4))


def make() -> LocalStore:
    return LocalStore(Cache(), clock=lambda: 0.0)


def test_others_get_what_is_stored():
    store, other = make(), make()
    store.publish = other.receive
    asyncio.run(store.put(b"a", answer()))
    assert asyncio.run(other.get(b"a")) == answer()


@given(message=st.binary(max_size=200))
def test_bytes_of_strangers_are_ignored(message):
    store = make()
    store.receive(message)
    assert store.usage().entries == 0


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
def test_what_is_cached(settings, sampling, covered):
    assert covers(Cache(**settings), sampling) == covered


def test_deterministic_is_greedy_or_seeded():
    assert SamplingParams(temperature=0.0).is_deterministic
    assert not SamplingParams(temperature=0.1).is_deterministic


class Requests:
    """Random requests, and pairs of them that differ in one field."""

    # What it means to leave a field out, where a value means the same.
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "n": 1,
        "logprobs": False,
        "skip_special_tokens": True,
        "include_stop_str_in_output": False,
        "response_format": {"type": "text"},
    }

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
        default = self.DEFAULTS.get(name)
        while other.get(name, default) == request.get(name, default):
            other[name] = self.fields[name]()
        return other


class Digests:
    """The digests of chat requests, as a worker makes them."""

    def __init__(self, models: list[Model]) -> None:
        info = ModelInfo(["m"], [], 100_000, 4, 1000, 1, "dry_run")
        served = [
            ServedStub(config, load_text_model(info, config, built_in_files())) for config in models
        ]
        launcher = SimpleNamespace(stopping=False, draining=False)
        self._models = ModelRegistry(served, launcher, Config())
        self._cache = Cache()

    def __call__(self, body: dict[str, Any]) -> bytes:
        generation = generation_of(decode_chat(msgspec.json.encode(body), Ignored()))
        http = SimpleNamespace(
            asked_id="",
            log_fields={},
            ignored=Ignored(),
            header=lambda _name: None,
            admission=SimpleNamespace(key=SimpleNamespace(min_priority=0), scope=""),
        )
        model = self._models.find(generation.model, ("generate",))
        tokenized = Tokenization(model, model.text, http, generation).attempt()
        return make_job(self._models, self._cache, http, tokenized).digest


class ServedStub:
    def __init__(self, config: Model, text: TextModel) -> None:
        self.config = config
        self.task = "generate"
        self.names = config.served_names
        self.name = config.served_names[0]
        self.identity = self.name.encode()
        self.text = text

    async def wait_until_ready(self) -> TextModel:
        return self.text


@pytest.mark.once
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
