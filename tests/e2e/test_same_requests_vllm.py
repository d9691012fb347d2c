"""What vLLM's own server answers V-Gate answers, but for what docs/api.md lists.

Both serve the same model, one after the other.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.compare.contenders import build
from bench.compare.models import Models
from bench.compare.service import Running
from bench.compare.settings import Settings, Setup
from tests.e2e.instance import ROOT, Instance
from tests.e2e.same_requests import Answer, Request, answers_of, request, same_requests
from tests.tiny_model.weights import MODEL_CONFIG
from vgate.errors import MethodNotAllowedError, NotFoundError
from vgate.frontend.routes import canonical, match

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MAX_MODEL_LEN = 512
EMBEDDING_PATHS = {"/v1/embeddings", "/pooling", "/v1/score", "/v1/rerank"}
REQUESTS = [*same_requests()]
# The kinds of requests in docs/api.md that vLLM answers and V-Gate refuses.
KINDS = {
    "beam search",
    "best_of",
    "documents",
    "embedded conversations",
    "empty text",
    "functions",
    "invalid elsewhere",
    "media",
    "other types",
    "padding",
    "raw vectors",
    "schema",
    "sizes",
    "third side",
    "wrong role",
}
# What has a value only in other setups of vLLM, or is of no use without one.
NEVER = {"ec_transfer_params", "metrics", "prompt_text", "routed_experts"}
# Null in each chunk of vLLM's; in V-Gate's only where it was asked for.
NOT_IN_CHUNKS = NEVER | {"prompt_token_ids", "token_ids"}
# Fields of vLLM's scores that V-Gate leaves out. They are null or 0 in every answer, as all
# documents are texts.
NOT_IN_SCORES = {
    "completion_tokens",
    "completion_tokens_details",
    "multi_modal",
    "prompt_tokens_details",
}
# The names of answers that are a vLLM server's /openapi.json begin with this.
DESCRIBED = "openapi"
# The paths that docs/api.md says V-Gate doesn't have.
NOT_SERVED = {
    "/generative_scoring",
    "/is_scaling_elastic_ep",
    "/kv_event_sources",
    "/scale_elastic_ep",
    "/v1/chat/completions/batch",
    "/v1/systemone",
    "/v2/embed",
}
WHOLE = [request(api, {}, []) for api in ("chat", "completions")]
STREAMS = [
    request(api, {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}, [])
    for api in ("chat", "completions")
]
ALL_TOKENS = {
    "chat": {"logprobs": True, "top_logprobs": -1, "prompt_logprobs": -1},
    "completions": {"logprobs": -1, "prompt_logprobs": -1},
}
PROBES = [request(api, {**fields, "seed": 5}, []) for api, fields in ALL_TOKENS.items()]
SENT = [*REQUESTS, *WHOLE, *STREAMS, *PROBES]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Answer]:
    """The answers of vLLM's servers, which serve one task each."""
    work = tmp_path_factory.mktemp("vllm-server")
    settings = Settings(max_num_seqs=16, max_model_len=MAX_MODEL_LEN)

    def answers(sent: list[Request], **arguments: Any) -> dict[str, Answer]:
        setup = Setup(
            models=Models(work), work=work, model=tiny_model_dir, engine_arguments=arguments
        )
        with Running(build("vllm-serve", setup, settings)) as running:
            url = f"http://127.0.0.1:{running.service.port}"
            about = httpx.get(f"{url}/openapi.json", timeout=30)
            described = Answer(about.status_code, about.text)
            return {**answers_of(url, sent), f"{DESCRIBED} {len(arguments)}": described}

    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    embed = [asked for asked in SENT if asked.path in EMBEDDING_PATHS]
    generate = [asked for asked in SENT if asked.path not in EMBEDDING_PATHS]
    return answers(generate, max_logprobs=-1, **tools) | answers(embed, runner="pooling")


@pytest.fixture(scope="module")
def ours(run_dirs: Path, tiny_model_dir: Path) -> Iterator[dict[str, Answer]]:
    """The answers of V-Gate."""
    common = {"model_id": str(tiny_model_dir), "dtype": "float32", "max_model_len": MAX_MODEL_LEN}
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=1,
        **{f"model__{name}": value for name, value in common.items()},
        model__served_model_name="tiny",
        model__engine_args={"enforce_eager": True, "max_logprobs": -1},
        batch__max_num_seqs=64,
        additional_models=[{**common, "task": "embed", "served_model_name": "tiny-embed"}],
    ) as instance:
        yield answers_of(instance.url, SENT)
        assert not instance.has_problem()


def test_what_vllm_serves_is_served(vllm: dict[str, Answer], ours: dict[str, Answer]):
    served = [asked for asked in REQUESTS if vllm[asked.name].status == 200]
    refused = [asked for asked in served if ours[asked.name].status != 200]
    unexplained = [told(asked, ours) for asked in refused if asked.refused is None]
    assert unexplained == []
    # Otherwise the comparison would say little.
    assert len(served) > 900


def test_every_path_is_served_or_documented(vllm: dict[str, Answer]):
    described = [
        json.loads(found.text) for name, found in vllm.items() if name.startswith(DESCRIBED)
    ]
    operations = {
        (method.upper(), path.replace("{response_id}", "resp_1"))
        for document in described
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert len(operations) > 25
    assert {path for method, path in operations if not is_served(method, path)} == NOT_SERVED
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert {path for path in NOT_SERVED if f"`{path}`" not in page} == set()


def test_what_is_refused_has_a_field_and_is_documented(
    vllm: dict[str, Answer], ours: dict[str, Answer]
):
    seen: Counter[str] = Counter()
    for asked in REQUESTS:
        answer = ours[asked.name]
        assert answer.status in {200, 400, 404}, told(asked, ours)
        if vllm[asked.name].status != 200 or answer.status == 200:
            continue
        seen[asked.refused or ""] += 1
        error = json.loads(answer.text)["error"]
        assert asked.path.startswith("/v1/messages") or error["param"], told(asked, ours)
    # Each kind is still one.
    assert set(seen) == KINDS


@pytest.mark.parametrize("asked", WHOLE, ids=lambda asked: asked.path)
def test_an_answer_has_the_keys_of_vllms(
    vllm: dict[str, Answer], ours: dict[str, Answer], asked: Request
):
    theirs, mine = (keys_of(json.loads(answers[asked.name].text)) for answers in (vllm, ours))
    assert theirs - mine <= NEVER


@pytest.mark.parametrize("asked", STREAMS, ids=lambda asked: asked.path)
def test_a_stream_has_the_keys_of_vllms(
    vllm: dict[str, Answer], ours: dict[str, Answer], asked: Request
):
    theirs, mine = (
        set().union(*map(keys_of, chunks_of(answers[asked.name].text))) for answers in (vllm, ours)
    )
    assert theirs - mine <= NOT_IN_CHUNKS


def test_scores_are_vllms(vllm: dict[str, Answer], ours: dict[str, Answer]):
    compared = 0
    for asked in REQUESTS:
        statuses = {answers[asked.name].status for answers in (vllm, ours)}
        if asked.path not in {"/v1/score", "/v1/rerank"} or statuses != {200}:
            continue
        theirs, mine = (json.loads(answers[asked.name].text) for answers in (vllm, ours))
        assert keys_of(theirs) - keys_of(mine) <= NOT_IN_SCORES
        name = "data" if "data" in theirs else "results"
        assert [one["index"] for one in mine[name]] == [one["index"] for one in theirs[name]]
        scores = [
            [one.get("score", one.get("relevance_score")) for one in answer[name]]
            for answer in (mine, theirs)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5), asked.name
        assert mine["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("asked", PROBES, ids=lambda asked: asked.path)
def test_minus_one_asks_for_the_whole_vocabulary(
    vllm: dict[str, Answer], ours: dict[str, Answer], asked: Request
):
    theirs, mine = (json.loads(answers[asked.name].text) for answers in (vllm, ours))
    (choice,), (other,) = mine["choices"], theirs["choices"]
    chat = "message" in choice
    sizes = [
        [position and len(position) for position in holder["prompt_logprobs"]]
        for holder in ((mine, theirs) if chat else (choice, other))
    ]
    assert sizes[0] == sizes[1]
    if chat:
        tops = [len(position["top_logprobs"]) for position in choice["logprobs"]["content"]]
        assert set(tops) == {MODEL_CONFIG["vocab_size"]}
    else:
        # By the tokens' texts, some of which several tokens share.
        tops = [len(position) for position in choice["logprobs"]["top_logprobs"]]
        assert min(tops) > MODEL_CONFIG["vocab_size"] // 2
    assert len(tops) == mine["usage"]["completion_tokens"]


def is_served(method: str, path: str) -> bool:
    """Return whether V-Gate has an endpoint for a path, as it is or in its canonical form."""
    try:
        match(method, canonical(path))
    except (NotFoundError, MethodNotAllowedError):
        return False
    return True


def told(asked: Request, answers: dict[str, Answer]) -> str:
    return f"{asked.name[:300]} -> {answers[asked.name].status} {answers[asked.name].text[:300]}"


def chunks_of(stream: str) -> list[Any]:
    lines = [line for line in stream.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def keys_of(value: Any) -> set[str]:
    """Return the names of all fields, at any depth."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(keys_of, value.values()))
