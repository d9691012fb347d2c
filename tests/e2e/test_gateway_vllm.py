"""Coalescing, cache and embeddings on the real engine, over several workers."""

import asyncio
import base64
import math
import os
import signal
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.test_gateway import text_of
from tests.e2e.test_lost_connections import data_of, worker_of
from tests.frontend.test_taking_up import events_of, id_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

REQUESTS = 200


@pytest.fixture(scope="module")
def gateway(run_dirs: Path, tiny_model_dir: Path) -> Iterator[Instance]:
    """Two engines, one for each task, behind four workers."""
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=4,
        cache__enabled=True,
        model__model_id=str(tiny_model_dir),
        model__served_model_name="tiny",
        model__dtype="float32",
        additional_models=[
            {
                "model_id": str(tiny_model_dir),
                "task": "embed",
                "served_model_name": "tiny-embed",
                "dtype": "float32",
                "engine_args": {"hf_overrides": {"matryoshka_dimensions": [16, 32]}},
            }
        ],
    ) as instance:
        yield instance


def test_two_hundred_identical_requests_are_one_generation(gateway: Instance) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me something long"}],
        "max_tokens": 256,
        "ignore_eos": True,
        "temperature": 1.0,
    }
    before = gateway.batching("")

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=REQUESTS)
        async with httpx.AsyncClient(timeout=120, limits=limits) as session:
            url = f"{gateway.url}/v1/chat/completions"
            requests = (
                session.post(url, json={**body, "stream": n % 2 == 0}) for n in range(REQUESTS)
            )
            return await asyncio.gather(*requests)

    answers = asyncio.run(run())
    assert {answer.status_code for answer in answers} == {200}
    assert len({text_of(answer) for answer in answers}) == 1
    outcomes = Counter(answer.headers["x-vgate-cache"] for answer in answers)
    assert outcomes["miss"] == 1
    assert sum(outcomes.values()) == REQUESTS
    # Prefill and 256 tokens of one sequence, whoever asked.
    assert 256 <= gateway.batching("") - before <= 258


def test_embeddings(gateway: Instance) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        texts = ["The cat sat on the mat.", "Stock markets fell."]
        both = client.embeddings.create(model="tiny-embed", input=texts)
        vectors = [item.embedding for item in both.data]
        assert [len(vector) for vector in vectors] == [64, 64]
        assert both.usage.prompt_tokens > 5
        for vector in vectors:
            assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-4)
        assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
        alone = client.embeddings.create(model="tiny-embed", input=texts[0])
        assert alone.data[0].embedding == pytest.approx(vectors[0], abs=1e-5)
    raw = httpx.post(
        f"{gateway.url}/v1/embeddings",
        json={"model": "tiny-embed", "input": texts[0], "encoding_format": "base64"},
        timeout=60,
    ).json()["data"][0]["embedding"]
    assert list(array("f", base64.b64decode(raw))) == pytest.approx(vectors[0], abs=1e-5)


def test_dimensions_that_the_model_was_trained_for(gateway: Instance) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        (whole,) = client.embeddings.create(model="tiny-embed", input="The cat").data
        (short,) = client.embeddings.create(model="tiny-embed", input="The cat", dimensions=16).data
        scale = math.hypot(*whole.embedding[:16])
        wanted = [value / scale for value in whole.embedding[:16]]
        assert short.embedding == pytest.approx(wanted, abs=1e-4)
        for dimensions in (20, 1000):
            with pytest.raises(openai.BadRequestError, match=str(dimensions)) as caught:
                client.embeddings.create(model="tiny-embed", input="x", dimensions=dimensions)
            assert caught.value.param == "dimensions"


def test_embeddings_of_tokens_equal_those_of_the_text(gateway: Instance) -> None:
    def post(path: str, **body: object) -> httpx.Response:
        body["model"] = "tiny-embed"
        return httpx.post(gateway.url + path, json=body, timeout=60)

    text = "The cat sat on the mat."
    tokens = post("/tokenize", prompt=text).json()["tokens"]
    assert post("/detokenize", tokens=tokens).json() == {"prompt": text}
    given = post("/v1/embeddings", input=[tokens, tokens[:3]], encoding_format="float").json()
    of_text = post("/v1/embeddings", input=text).json()["data"][0]["embedding"]
    cut = post("/v1/embeddings", input=text, truncate_prompt_tokens=3).json()
    assert given["data"][0]["embedding"] == pytest.approx(of_text, abs=1e-5)
    assert given["data"][1]["embedding"] == pytest.approx(cut["data"][0]["embedding"], abs=1e-5)
    assert cut["usage"]["prompt_tokens"] == 3
    answer = post("/v1/embeddings", input=[tokens, [1, 10**6]])
    assert answer.json()["error"]["param"] == "input[1][1]"
    assert post("/v1/embeddings", input=text).status_code == 200


def test_the_engines_counters_are_exported(gateway: Instance) -> None:
    def counts() -> dict[str, float]:
        text = httpx.get(f"{gateway.url}/metrics", timeout=10).text
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    counted = (
        'vgate_prefix_cache_queries_total{model="tiny"}',
        'vgate_batch_size_count{model="tiny"}',
        'vgate_batch_size_count{model="tiny-embed"}',
    )
    # The engine reports its counters in heartbeats, four times a second.
    wait_until(lambda: all(counts()[name] > 0 for name in counted), 10, "the engines' counts")
    assert counts()['vgate_engine_restarts_total{model="tiny"}'] == 0


def test_a_sampled_stream_goes_on_in_another_worker(gateway: Instance) -> None:
    """Nothing but the engine has its tokens: without a seed no other generation has them."""
    path = f"{gateway.url}/v1/chat/completions"
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me something long"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "temperature": 1.0,
        "logprobs": True,
        "n": 2,
        "stream": True,
    }
    headers = {"X-VGate-Resumable": "true", "Cache-Control": "no-store, no-cache"}
    client = httpx.Client(timeout=120)
    with client.stream("POST", path, json=body, headers=headers) as response:
        port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
        parts = response.iter_bytes()
        seen = b""
        while len(events_of(seen)) < 40:
            seen += next(parts)
        os.kill(worker_of(gateway, port), signal.SIGKILL)
        got = events_of(seen[: seen.rfind(b"\n\n") + 2])
    last, stream = id_of(got[-1]), id_of(got[0]).rpartition(":")[0]
    rest = client.get(path, headers={"Last-Event-ID": last})
    whole = client.get(path, headers={"Last-Event-ID": stream})
    client.close()
    assert rest.status_code == whole.status_code == 200
    joined = data_of(got + events_of(rest.content))
    assert joined == data_of(events_of(whole.content))
    assert len(joined[0]) == len(joined[1]) > 300
    assert joined[0] != joined[1]
    wait_until(gateway.ready, 60, "a new worker")
