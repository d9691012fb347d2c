"""``/v1/score`` and ``/v1/rerank`` through the app, and their tables in the docs."""

import asyncio
import json
import math
from typing import Any

import pytest

from tests.frontend.apis.documented import tables
from tests.frontend.apis.endpoints.conftest import EMBED_LIMIT
from tests.frontend.gateway import Gateway, Protocol, post
from vgate.errors import UnsupportedParameterError
from vgate.frontend.apis.fields import policies_of
from vgate.frontend.apis.openai.scoring import (
    RerankRequest,
    ScoreRequest,
    decode_rerank,
    decode_score,
)
from vgate.frontend.http import Ignored

LONG = "a " * EMBED_LIMIT
DECODERS = {
    "score": (decode_score, ScoreRequest, {"text_1": "a", "text_2": ["b", "c"]}),
    "rerank": (decode_rerank, RerankRequest, {"query": "a", "documents": ["b"]}),
}
# What each name of a side is sent with, but for the names in the minimal request.
OTHER_SIDES = {
    "queries": "documents",
    "documents": "queries",
    "items": "queries",
    "data_1": "data_2",
    "data_2": "data_1",
}


async def answered(gateway: Gateway, path: str, **fields: Any) -> dict[str, Any]:
    answer: Protocol = await post(gateway, path, fields)
    assert answer.status == 200, answer.body
    return answer.json


async def cosine(gateway: Gateway, one: str, other: str) -> float:
    body = await answered(gateway, "/v1/embeddings", input=[one, other])
    first, second = (item["embedding"] for item in body["data"])
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.hypot(*first) / math.hypot(*second)


def scores_of(body: dict[str, Any]) -> list[float]:
    assert [item["index"] for item in body["data"]] == list(range(len(body["data"])))
    return [item["score"] for item in body["data"]]


def test_a_score_is_the_cosine_of_two_embeddings(embed):
    async def scenario(gateway):
        body = await answered(gateway, "/v1/score", model="m", text_1="a b", text_2=["a b", "c"])
        assert scores_of(body) == pytest.approx([1, await cosine(gateway, "a b", "c")], abs=1e-6)
        assert body.keys() == {"id", "object", "created", "model", "data", "usage"}
        assert (body["object"], body["model"]) == ("list", "m")
        assert {item["object"] for item in body["data"]} == {"score"}
        # Each text has two special tokens.
        assert body["usage"] == {"prompt_tokens": 11, "total_tokens": 11}

    embed(scenario)


def test_pairs_and_every_name_of_the_sides(embed):
    async def scenario(gateway):
        wanted = [await cosine(gateway, "a", "c"), await cosine(gateway, "b", "d")]
        assert wanted[0] != pytest.approx(wanted[1], abs=1e-3)
        for one, other in (
            ("text_1", "text_2"),
            ("data_1", "data_2"),
            ("queries", "documents"),
            ("queries", "items"),
        ):
            sides = {one: ["a", "b"], other: ["c", "d"]}
            for path in ("/v1/score", "/score", "/invocations"):
                body = await answered(gateway, path, **sides)
                assert scores_of(body) == pytest.approx(wanted, abs=1e-6)

    embed(scenario)


def test_documents_come_in_the_order_of_their_scores(embed):
    async def scenario(gateway):
        documents = ["c", "a b", "d", "a b"]
        for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/invocations"):
            body = await answered(gateway, path, query="a b", documents=documents)
            assert body.keys() == {"id", "model", "results", "usage"}
            results = body["results"]
            # Equal ones stay in their order.
            assert [result["index"] for result in results[:2]] == [1, 3]
            assert {result["index"] for result in results} == {0, 1, 2, 3}
            values = [result["relevance_score"] for result in results]
            assert values == sorted(values, reverse=True)
            for result in results:
                assert result["document"] == {"text": documents[result["index"]]}

    embed(scenario)


def test_fewer_results_and_none_of_the_texts(embed):
    async def scenario(gateway):
        fields = {"query": "a", "documents": ["b", "a", "c"]}
        for top_n, count in ((1, 1), (0, 3), (None, 3), (9, 3)):
            body = await answered(gateway, "/v1/rerank", **fields, top_n=top_n)
            assert len(body["results"]) == count
            assert body["results"][0]["index"] == 1
        body = await answered(gateway, "/v1/rerank", **fields, return_documents=False)
        assert {name for result in body["results"] for name in result} == {
            "index",
            "relevance_score",
        }

    embed(scenario)


def test_limits_of_each_side(embed):
    async def scenario(gateway):
        body = await answered(
            gateway,
            "/v1/rerank",
            query=LONG,
            documents=["a b c", "a b", LONG],
            max_tokens_per_query=1,
            max_tokens_per_doc=2,
        )
        assert body["usage"]["prompt_tokens"] == 3 + 3 * 4
        first, second = (r for r in body["results"] if r["index"] < 2)
        assert first["relevance_score"] == pytest.approx(second["relevance_score"])
        # More than the model's are of no effect.
        fields = {"query": "a", "documents": [LONG, "b"], "max_tokens_per_doc": 1000}
        answer = await post(gateway, "/v1/rerank", fields)
        assert (answer.status, answer.error["param"]) == (400, "documents[0]")
        body = await answered(gateway, "/v1/rerank", **fields, truncate_prompt_tokens=-1)
        assert body["usage"]["prompt_tokens"] == 3 + EMBED_LIMIT + 3

    embed(scenario)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ("/v1/score", {"queries": ["a", "b"], "items": "c"}, "queries"),
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/score", {"data_2": "a"}, "data_1"),
        ("/v1/score", {}, "text_1"),
        ("/v1/score", {"queries": "a", "documents": "b", "items": "c"}, "items"),
        ("/v1/score", {"text_1": "a", "text_2": "b", "documents": "c"}, "documents"),
        ("/v1/score", {"data_1": "a", "data_2": "b", "text_2": "c"}, "text_2"),
        ("/v1/score", {"data_1": "a", "text_2": "b"}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": [""]}, "text_2[0]"),
        ("/v1/score", {"text_1": ["a"], "text_2": ["a", LONG]}, "text_2[1]"),
        ("/v1/score", {"text_1": LONG, "text_2": ["a"]}, "text_1"),
        ("/v1/score", {"text_1": LONG, "text_2": "a", "max_tokens_per_doc": 3}, "text_1"),
        ("/v1/rerank", {"query": "a", "documents": LONG}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": [{"text": "b"}]}, "documents[0]"),
        ("/v1/rerank", {"documents": ["b"]}, "query"),
    ],
)
def test_errors_name_the_text(embed, path, fields, param):
    async def scenario(gateway):
        answer = await post(gateway, path, fields)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body

    embed(scenario)


def test_a_model_that_writes_text_has_no_scores(serve):
    async def scenario(gateway):
        answer = await post(gateway, "/v1/rerank", {"query": "a", "documents": ["b"]})
        assert answer.status == 400

    serve(scenario)


def test_many_at_once(embed):
    async def scenario(gateway):
        documents = ["a b c d"] * 300
        fields = {"query": "a b c d", "documents": documents}
        bodies = await asyncio.gather(
            *(answered(gateway, "/v1/rerank", **fields) for _ in range(3))
        )
        for body in bodies:
            assert [result["index"] for result in body["results"]] == list(range(300))

    embed(scenario)


@pytest.mark.parametrize(
    ("api", "row"),
    [
        pytest.param(api, row, id=f"{api}-{row.name}")
        for api in DECODERS
        for row in [*tables()["score and rerank"], *tables()[api]]
    ],
)
def test_a_field_is_what_the_table_says(api, row):
    decode, struct, minimal = DECODERS[api]
    if api == "score" and row.name in OTHER_SIDES:
        minimal = {OTHER_SIDES[row.name]: ["c", "d"]}
    body = json.dumps({**minimal, row.name: row.example}).encode()
    assert row.kind == policies_of(struct)[row.name].kind
    if row.kind == "refused":
        with pytest.raises(UnsupportedParameterError) as caught:
            decode(body, Ignored())
        assert caught.value.param == row.name
        return
    ignored = Ignored()
    assert getattr(decode(body, ignored), row.name) == row.example
    assert ignored.names == ([row.name] if row.kind == "ignored" else [])
