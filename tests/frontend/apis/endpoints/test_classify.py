"""Models that classify or rank: ``/classify``, and scores of pairs that are read at once."""

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
from vgate.frontend.apis.openai.classify import ClassifyRequest, decode_classify
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import inputs

LABELS = ("bad", "fair", "good")
LONG = "a " * EMBED_LIMIT
TEMPLATE = "{{ instruction }}{% for m in messages %} {{ m.role[0] }} {{ m.content }}{% endfor %}"


async def answered(gateway: Gateway, path: str, **fields: Any) -> dict[str, Any]:
    answer: Protocol = await post(gateway, path, fields)
    assert answer.status == 200, answer.body
    return answer.json


async def used(gateway: Gateway, **fields: Any) -> int:
    """Return the tokens of a request for scores."""
    return (await answered(gateway, "/v1/score", **fields))["usage"]["prompt_tokens"]


def test_a_text_has_the_label_of_its_likeliest_class(classify):
    async def scenario(gateway):
        for path in ("/classify", "/v1/classify"):
            body = await answered(gateway, path, model="m", input=["a b c", "d", "a b c"])
            assert body.keys() == {"id", "object", "created", "model", "data", "usage"}
            assert body["id"].startswith("classify-")
            assert (body["object"], body["model"]) == ("list", "m")
            # Each text has two special tokens.
            assert body["usage"] == {"prompt_tokens": 13, "total_tokens": 13}
            for index, item in enumerate(body["data"]):
                assert (item["index"], item["num_classes"]) == (index, 3)
                assert sum(item["probs"]) == pytest.approx(1, abs=1e-6)
                assert item["label"] == LABELS[item["probs"].index(max(item["probs"]))]
            assert body["data"][0]["probs"] == body["data"][2]["probs"]
            assert body["data"][0]["probs"] != body["data"][1]["probs"]

    classify(scenario, LABELS)


def test_token_ids_one_input_and_plain_outputs(classify):
    async def scenario(gateway):
        text, ids, nested = [
            (await answered(gateway, "/classify", input=given))["data"]
            for given in ("a b", [0, 3, 4, 1], [[0, 3, 4, 1]])
        ]
        assert text == ids == nested
        plain = await answered(gateway, "/classify", input="a b", use_activation=False)
        for value, prob in zip(plain["data"][0]["probs"], text[0]["probs"], strict=True):
            assert value == pytest.approx(math.log(prob / (1 - prob)), abs=1e-5)

    classify(scenario, LABELS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", LONG]}, "input[1]"),
        ({"input": LONG}, "input"),
        ({"input": [99]}, "input[0]"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_errors_of_classify_name_the_field(classify, fields, param):
    async def scenario(gateway):
        answer = await post(gateway, "/classify", fields)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body

    classify(scenario, LABELS)


def test_a_pair_is_one_prompt(classify):
    async def scenario(gateway):
        body = await answered(gateway, "/v1/score", text_1="a b", text_2=["c", "a b", "c d e"])
        assert [item["index"] for item in body["data"]] == [0, 1, 2]
        scores = [item["score"] for item in body["data"]]
        assert max(scores) == scores[1]
        assert all(0 < score < 1 for score in scores)
        # With three special tokens each.
        assert body["usage"]["prompt_tokens"] == 2 * 3 + 1 + 2 + 3 + 3 * 3
        # The same as the prompt of these tokens: but it says where the second text begins.
        alone = await answered(gateway, "/classify", input=[0, 3, 4, 1, 3, 4, 1])
        assert alone["data"][0]["probs"][0] != scores[1]
        pairs = await answered(gateway, "/score", text_1=["a b", "a"], text_2=["c", "a b"])
        assert pairs["data"][0]["score"] == scores[0]
        assert pairs["data"][1]["score"] not in scores
        plain = await answered(gateway, "/score", text_1="a", text_2="b", use_activation=False)
        known = await answered(gateway, "/score", text_1="a", text_2="b")
        score = known["data"][0]["score"]
        logit = math.log(score / (1 - score))
        assert plain["data"][0]["score"] == pytest.approx(logit, abs=1e-5)

    classify(scenario)


def test_documents_are_ranked(classify):
    async def scenario(gateway):
        documents = ["c", "a b", "d e f"]
        for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/invocations"):
            body = await answered(gateway, path, query="a b", documents=documents, top_n=2)
            values = [result["relevance_score"] for result in body["results"]]
            assert len(values) == 2
            assert values == sorted(values, reverse=True)
            assert body["results"][0]["index"] == 1
            assert body["results"][0]["document"] == {"text": "a b"}

    classify(scenario)


def test_the_longer_text_is_cut_first(classify):
    async def scenario(gateway):
        kept = {"text_1": "a b c", "text_2": ["d e", LONG]}
        assert await used(gateway, **kept, truncate_prompt_tokens=-1) == 8 + EMBED_LIMIT
        whole = await answered(gateway, "/score", text_1="a b c", text_2="a a a a")
        cut = await answered(
            gateway, "/score", text_1="a b c", text_2=LONG, truncate_prompt_tokens=10
        )
        assert cut["data"][0]["score"] == whole["data"][0]["score"]
        limits = {"max_tokens_per_query": 2, "max_tokens_per_doc": 4}
        assert await used(gateway, text_1=LONG, text_2=LONG, **limits) == 2 + 4 + 3
        left = await answered(
            gateway,
            "/score",
            text_1="a",
            text_2="c " * 20 + "d e",
            truncation_side="left",
            truncate_prompt_tokens=6,
        )
        last = await answered(gateway, "/score", text_1="a", text_2="d e")
        assert left["data"][0]["score"] == last["data"][0]["score"]

    classify(scenario)


@pytest.mark.parametrize(("first", "second", "kept"), [(9, 8, 4), (8, 9, 3), (9, 9, 3), (9, 3, 4)])
def test_the_longer_of_two_long_texts_keeps_an_odd_token(classify, first, second, kept):
    async def scenario(gateway):
        one, other = ["a", "b", "c"] * 3, ["d", "e", "f"] * 3

        async def score(first, second, **fields):
            sides = {"text_1": " ".join(one[:first]), "text_2": " ".join(other[:second])}
            body = await answered(gateway, "/score", **sides, **fields)
            return body["data"][0]["score"]

        cut = await score(first, second, truncate_prompt_tokens=7 + 3)
        assert cut == await score(kept, 7 - kept)
        assert cut != await score(7 - kept, kept)

    classify(scenario)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text_1": "a", "text_2": ["b", LONG]}, "text_2[1]"),
        ({"text_1": LONG, "text_2": ["b"]}, "text_1"),
        # Each is short enough, and both are not.
        ({"text_1": "a " * 7, "text_2": ["b", "b " * 7]}, "text_2[1]"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 99}, "truncate_prompt_tokens"),
        ({"text_1": "a", "text_2": "b", "max_tokens_per_query": 16}, "max_tokens_per_query"),
        ({"text_1": "a", "text_2": "b", "max_tokens_per_doc": 2**31 - 1}, "max_tokens_per_doc"),
        # With a limit for documents, vLLM doesn't cut the query.
        (
            {
                "text_1": "a " * 9,
                "text_2": "b",
                "max_tokens_per_doc": 2,
                "truncate_prompt_tokens": 8,
            },
            "text_2",
        ),
    ],
)
def test_errors_of_pairs_name_the_text(classify, fields, param):
    async def scenario(gateway):
        answer = await post(gateway, "/v1/score", fields)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body

    classify(scenario)


def test_a_configured_template_renders_the_pairs(classify, tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "pairs.jinja"
    path.write_text(TEMPLATE)

    async def scenario(gateway):
        # The roles' first letters: "q" is unknown and "d" is a word. Two special tokens.
        fields = {"text_1": "a b", "text_2": ["c", "e f"]}
        assert await used(gateway, **fields) == 2 * (2 + 2 + 2) + 1 + 2
        assert await used(gateway, **fields, instruction="g h") == 2 * 8 + 1 + 2
        kwargs = {"chat_template_kwargs": {"instruction": "g"}, "instruction": "g h"}
        assert await used(gateway, **fields, **kwargs) == 2 * 7 + 1 + 2
        assert await used(gateway, text_1="a", text_2=LONG, truncate_prompt_tokens=9) == 9
        answer = await post(gateway, "/score", {"text_1": "a", "text_2": ["b", LONG]})
        assert (answer.status, answer.error["param"]) == (400, "text_2[1]")
        answer = await post(gateway, "/score", {**fields, "instruction": "g"})
        assert "x-vgate-ignored" not in answer.headers

    classify(scenario, chat_template=str(path))


def test_what_pairs_repeat_of_a_query_is_bounded(classify, tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("template") / "pairs.jinja"
    path.write_text(TEMPLATE)
    monkeypatch.setattr(inputs, "_MOST_JOINED_CHARS", 3 * len(LONG))

    async def scenario(gateway):
        fields = {"query": LONG, "truncate_prompt_tokens": 9}
        for count, status in ((2, 200), (3, 400)):
            answer = await post(gateway, "/rerank", fields | {"documents": ["b"] * count})
            assert answer.status == status
        assert answer.error["param"] == "documents[2]"
        assert "characters" in answer.error["message"]

    classify(scenario, chat_template=str(path))


def test_without_a_template_its_variables_are_told(classify):
    async def scenario(gateway):
        fields = {"text_1": "a", "text_2": "b", "chat_template_kwargs": {"a": 1}}
        answer = await post(gateway, "/score", {**fields, "instruction": "g"})
        assert answer.status == 200
        assert answer.headers["x-vgate-ignored"] == "instruction, chat_template_kwargs"

    classify(scenario)


def test_other_endpoints_name_the_right_ones(classify, embed, serve):
    async def refused(gateway, path, fields, *words):
        answer = await post(gateway, path, fields)
        assert (answer.status, answer.error["param"]) == (400, "model"), answer.body
        for word in words:
            assert word in answer.error["message"]

    chat = {"messages": [{"role": "user", "content": "a"}]}

    async def ranks(gateway):
        for path, fields in (
            ("/v1/chat/completions", chat),
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/embeddings", {"input": "a"}),
            ("/pooling", {"input": "a"}),
        ):
            await refused(gateway, path, fields, "/classify or /v1/rerank")

    async def many_classes(gateway):
        pair = {"text_1": "a", "text_2": "b"}
        await refused(gateway, "/v1/score", pair, "3 classes", "/classify")
        rerank = {"query": "a", "documents": ["b"]}
        await refused(gateway, "/v1/rerank", rerank, "3 classes", "/classify")

    async def embeds(gateway):
        await refused(gateway, "/classify", {"input": "a"}, "does not classify", "/v1/embeddings")

    async def generates(gateway):
        pair = {"text_1": "a", "text_2": "b"}
        await refused(gateway, "/classify", {"input": "a"}, "/v1/chat/completions")
        await refused(gateway, "/v1/score", pair, "/v1/chat/completions")

    classify(ranks)
    classify(many_classes, LABELS)
    embed(embeds)
    serve(generates)


def test_many_pairs_at_once(classify):
    async def scenario(gateway):
        documents = ["a b c d"] * 300 + ["e"]
        fields = {"query": "a b c d", "documents": documents}
        bodies = await asyncio.gather(
            *(answered(gateway, "/v1/rerank", **fields) for _ in range(3))
        )
        for body in bodies:
            assert [result["index"] for result in body["results"]] == list(range(301))

    classify(scenario)


@pytest.mark.parametrize("row", tables()["embeddings"], ids=lambda row: row.name)
def test_a_field_is_as_in_embeddings(row):
    body = json.dumps({"input": "a", row.name: row.example}).encode()
    about_vectors = row.name in {"encoding_format", "dimensions", "embed_dtype", "endianness"}
    kind = "ignored" if about_vectors else row.kind
    assert policies_of(ClassifyRequest)[row.name].kind == kind
    ignored = Ignored()
    if kind == "refused":
        with pytest.raises(UnsupportedParameterError) as caught:
            decode_classify(body, ignored)
        assert caught.value.param == row.name
        return
    assert getattr(decode_classify(body, ignored), row.name) == row.example
    assert ignored.names == ([row.name] if kind == "ignored" else [])
