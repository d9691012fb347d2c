"""Cross-encoders and classifiers on the real engine: what vLLM's own server answers, we answer.

Both serve the same models, one after the other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.compare.contenders import build
from bench.compare.models import Models
from bench.compare.service import Running
from bench.compare.settings import Settings, Setup
from tests.e2e.instance import Instance
from tests.e2e.same_requests import Answer, Request, answers_of
from tests.tiny_model.encoder import MAX_TOKENS, make_tiny_encoder

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

# Tokens of the tiny model: as Qwen3-Reranker, it ranks by the probability of one against another's.
AS_RERANKER = {
    "architectures": ["Qwen2ForSequenceClassification"],
    "classifier_from_token": ["is", "it"],
    "method": "from_2_way_softmax",
}
# Renders a pair as Qwen3-Reranker's template does.
TEMPLATE = """<|im_start|>system
Judge.<|im_end|>
<|im_start|>user
<Instruct>: {{ instruction | default("Rank them.") }}
{% for message in messages %}<{{ message.role }}>: {{ message.content }}
{% endfor %}<|im_end|>
<|im_start|>assistant
"""
LONG = "The quick brown fox jumps over the lazy dog and returns to its den. " * 20
WORDS = "Import the module, then call the function with the arguments."
DOCUMENTS = [WORDS, "how are you?", "a", "naïve café 東京 🚂", "x = [n for n in range(10)]"]
RANKED = [
    ("/v1/rerank", {"query": "which function?", "documents": DOCUMENTS}),
    ("/v2/rerank", {"query": "which function?", "documents": DOCUMENTS, "top_n": 2}),
    ("/rerank", {"query": "a query", "documents": "one text"}),
    ("/v1/score", {"text_1": "a query", "text_2": DOCUMENTS}),
    ("/score", {"queries": DOCUMENTS, "documents": DOCUMENTS[::-1]}),
    ("/score", {"data_1": "same", "data_2": "same", "use_activation": False}),
    ("/score", {"text_1": WORDS, "text_2": DOCUMENTS, "truncate_prompt_tokens": 9}),
    ("/score", {"text_1": WORDS, "text_2": ["a", LONG], "truncate_prompt_tokens": -1}),
    ("/score", {"text_1": LONG, "text_2": ["a", LONG], "truncate_prompt_tokens": 20}),
    ("/score", {"text_1": LONG, "text_2": [LONG, "b"], "max_tokens_per_query": 5,
                "max_tokens_per_doc": 7}),
    ("/score", {"text_1": "a", "text_2": [LONG, "b"], "max_tokens_per_doc": 30}),
    ("/classify", {"input": DOCUMENTS}),
    ("/classify", {"input": "one text", "use_activation": False}),
]  # fmt: skip
RENDERED = [
    *RANKED[:4],
    ("/score", {"text_1": "a", "text_2": ["b", WORDS], "instruction": "Find the function."}),
    ("/score", {"text_1": LONG, "text_2": [LONG, "b"], "max_tokens_per_query": 5,
                "max_tokens_per_doc": 7}),
    ("/score", {"text_1": "a", "text_2": LONG, "truncate_prompt_tokens": 40}),
    ("/score", {"text_1": "a", "text_2": "b", "chat_template_kwargs": {"instruction": "So?"}}),
]  # fmt: skip
REFUSED = [
    ("/score", {"text_1": "a", "text_2": LONG * 4}),
    ("/rerank", {"query": LONG * 4, "documents": ["a"]}),
    ("/score", {"text_1": ["a", "b"], "text_2": ["a"]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/embeddings", {"input": "a"}),
]
CLASSIFIED = [
    ("/classify", {"input": DOCUMENTS}),
    ("/classify", {"input": [5, 6, 7], "use_activation": False}),
    ("/classify", {"input": [[5, 6], [7]]}),
    ("/classify", {"input": LONG, "truncate_prompt_tokens": 11}),
    ("/classify", {"input": "a b c", "add_special_tokens": False}),
]
NOT_SCORED = [("/score", {"text_1": "a", "text_2": "b"})]


class Case(NamedTuple):
    """A model, the arguments of vLLM's server for it, and what both are asked."""

    name: str
    arguments: dict[str, Any]
    asked: list[tuple[str, dict[str, Any]]]
    refused: list[tuple[str, dict[str, Any]]]


CASES = [
    Case("encoder", {}, RANKED, REFUSED),
    Case("roberta", {}, RANKED, REFUSED),
    Case("reranker", {"hf_overrides": AS_RERANKER, "max_model_len": 512}, RANKED, REFUSED),
    Case("templated", {"hf_overrides": AS_RERANKER, "max_model_len": 512}, RENDERED, REFUSED),
    Case("classifier", {}, CLASSIFIED, NOT_SCORED),
]


class Both(NamedTuple):
    """What both have answered, by the request's name."""

    case: Case
    theirs: dict[str, Answer]
    ours: dict[str, Answer]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def both(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    run_dirs: Path,
    tiny_model_dir: Path,
) -> Iterator[Both]:
    case: Case = request.param
    model, work = tiny_model_dir, tmp_path_factory.mktemp("vllm-server")
    if "hf_overrides" not in case.arguments:
        labels = ["bad", "fair", "good"] if case.name == "classifier" else ["LABEL_0"]
        directory = tmp_path_factory.mktemp(case.name)
        model = make_tiny_encoder(directory, labels, roberta=case.name == "roberta")
    template = work / "pairs.jinja"
    template.write_text(TEMPLATE)
    templates = {"chat_template": str(template)} if case.name == "templated" else {}
    sent = [Request(str(n), *asked) for n, asked in enumerate([*case.asked, *case.refused])]
    length = case.arguments.get("max_model_len", MAX_TOKENS)
    arguments = {key: value for key, value in case.arguments.items() if key != "max_model_len"}
    setup = Setup(
        models=Models(work), work=work, model=model,
        engine_arguments={"runner": "pooling", "dtype": "float32", **arguments, **templates},
    )  # fmt: skip
    settings = Settings(max_num_seqs=16, max_model_len=length)
    with Running(build("vllm-serve", setup, settings)) as running:
        theirs = answers_of(f"http://127.0.0.1:{running.service.port}", sent)
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=1,
        model__model_id=str(model),
        model__served_model_name="m",
        model__dtype="float32",
        model__max_model_len=length,
        model__engine_args=arguments,
        **{f"model__{name}": value for name, value in templates.items()},
        batch__max_num_seqs=16,
    ) as instance:
        yield Both(case, theirs, answers_of(instance.url, sent))
        assert not instance.has_problem()


def numbers_of(body: dict[str, Any]) -> list[Any]:
    """Return what counts of an answer, in its order: places, labels, scores, probabilities."""
    found: list[Any] = []
    for item in body.get("results") or body["data"]:
        found.append(item["index"])
        if "probs" in item:
            found += [item["label"], item["num_classes"], *item["probs"]]
        else:
            found.append(item.get("relevance_score", item.get("score")))
            found.append((item.get("document") or {}).get("text"))
    return [*found, body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]]


def test_the_answers_are_vllms(both: Both) -> None:
    scores = set()
    for number, (path, body) in enumerate(both.case.asked):
        theirs, ours = both.theirs[str(number)], both.ours[str(number)]
        assert (theirs.status, ours.status) == (200, 200), (path, body, theirs.text, ours.text)
        theirs_body, ours_body = json.loads(theirs.text), json.loads(ours.text)
        wanted, got = numbers_of(theirs_body), numbers_of(ours_body)
        for one, other in zip(wanted, got, strict=True):
            if isinstance(one, float):
                scores.add(round(one, 4))
                assert other == pytest.approx(one, abs=1e-5), (path, body)
            else:
                assert other == one, (path, body)
        missing = theirs_body.keys() - ours_body.keys()
        assert not missing, (path, missing)
    # So that the comparison means something.
    assert len(scores) > len(both.case.asked)


def test_both_refuse_the_same(both: Both) -> None:
    for number, (path, body) in enumerate(both.case.refused, len(both.case.asked)):
        theirs, ours = both.theirs[str(number)], both.ours[str(number)]
        assert ours.status == 400, (path, body, ours.text)
        assert theirs.status >= 400, (path, body, theirs.text)
