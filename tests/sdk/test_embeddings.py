"""Embeddings with the official Python client, which requests base64 by default."""

import asyncio
import base64
import math
from array import array
from typing import Any

import openai
import pytest

from tests.e2e.instance import Instance
from tests.sdk.conversation import EMBEDDER, MODEL

DIMENSIONS = 384


def embed(client: openai.OpenAI, given: Any, **params: Any) -> Any:
    return client.embeddings.create(model=EMBEDDER, input=given, **params)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_text(client: openai.OpenAI):
    answer = embed(client, "The cat sat.")
    (item,) = answer.data
    assert (answer.object, answer.model) == ("list", EMBEDDER)
    assert (item.object, item.index, len(item.embedding)) == ("embedding", 0, DIMENSIONS)
    assert math.hypot(*item.embedding) == pytest.approx(1, abs=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len("The cat sat.")


def test_the_default_is_as_exact_as_floats(client: openai.OpenAI):
    floats = embed(client, "abc", encoding_format="float").data[0].embedding
    assert embed(client, "abc").data[0].embedding == pytest.approx(floats, abs=1e-7)


def test_requested_base64_is_not_decoded(client: openai.OpenAI):
    encoded = embed(client, "abc", encoding_format="base64").data[0].embedding
    assert isinstance(encoded, str)
    decoded = list(array("f", base64.b64decode(encoded)))
    assert decoded == pytest.approx(embed(client, "abc").data[0].embedding, abs=1e-7)


@pytest.mark.parametrize(
    "given",
    [["abc"], [97, 98, 99], [[97, 98, 99]]],
    ids=["a list", "tokens", "lists of tokens"],
)
def test_kinds_of_input(client: openai.OpenAI, given: Any):
    (item,) = embed(client, given).data
    assert item.embedding == embed(client, "abc").data[0].embedding


def test_several_texts_keep_their_order(client: openai.OpenAI):
    texts = ["one", "zwei", "три", "四"]
    answer = embed(client, texts)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    for item, text in zip(answer.data, texts, strict=True):
        assert item.embedding == embed(client, text).data[0].embedding


def test_near_texts_have_near_vectors(client: openai.OpenAI):
    cat, cats, rain = (
        item.embedding
        for item in embed(client, ["The cat sat here", "The cat sits here", "rain fell"]).data
    )
    assert dot(cat, cats) > dot(cat, rain)


def test_fewer_dimensions(client: openai.OpenAI):
    (item,) = embed(client, "abc", dimensions=8).data
    assert len(item.embedding) == 8
    assert math.hypot(*item.embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "params", "param"),
    [
        ("", {}, "input"),
        ([], {}, "input"),
        (["a", [1]], {}, "input"),
        ([[97, 10**6]], {}, "input[0][1]"),
        (["x"] * 2049, {}, "input"),
        ("abc", {"dimensions": DIMENSIONS + 1}, "dimensions"),
        ("abc", {"dimensions": 0}, "dimensions"),
        ("abc", {"encoding_format": "text"}, "encoding_format"),
        ("x" * 40_000, {}, "input"),
        ("abc", {"extra_body": {"normalize": True}}, "normalize"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused_parameters(client: openai.OpenAI, given: Any, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        embed(client, given, **params)
    assert refused.value.param == param


def test_a_text_model_does_not_embed(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="does not embed") as refused:
        client.embeddings.create(model=MODEL, input="abc")
    assert refused.value.param == "model"


def test_an_embedder_does_not_generate(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="does not generate") as refused:
        client.chat.completions.create(model=EMBEDDER, messages=[{"role": "user", "content": "hi"}])
    assert refused.value.param == "model"


def test_async(gateway: Instance):
    async def run() -> list[int]:
        async with gateway.async_client() as client:
            answers = await asyncio.gather(
                *(client.embeddings.create(model=EMBEDDER, input=f"t {n}") for n in range(16))
            )
            return [len(answer.data[0].embedding) for answer in answers]

    assert asyncio.run(run()) == [DIMENSIONS] * 16
