"""Models, tokens and embeddings over HTTP, through the official client where it supports them."""

import math
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

import vgate
from tests.e2e.instance import Instance
from tests.e2e.traffic import CHAT, chat

NAMES = ["org/main model", "ähnlich?#%2F"]
MODELS = [*NAMES, "embedder"]
PATHS = {
    "POST": ["/tokenize", "/detokenize", "/v1/embeddings"],
    "GET": ["/version", "/v1/models", "/v1/models/embedder", "/openapi.json", "/tokenizer_info"],
}
DEEP = b'{"prompt": "a", "input": "a", "messages": %s, "tokens": %s}'


@pytest.fixture(scope="module")
def gateway(run_dirs: Path) -> Iterator[Instance]:
    """One worker, and a model for each task."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=1,
        dry_run__step_ms=1,
        model__served_model_name=NAMES,
        additional_models=[{"model_id": "embedder", "task": "embed"}],
    ) as instance:
        yield instance
        assert not instance.has_problem()


@pytest.fixture(scope="module")
def client(gateway: Instance) -> Iterator[openai.OpenAI]:
    with gateway.client() as client:
        yield client


def test_names_that_need_quoting(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == MODELS
    for name in MODELS:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="org/other"):
        client.models.retrieve("org/other")


def test_slashes_may_be_quoted_or_not(gateway: Instance):
    for path in ("org/main%20model", "org%2Fmain%20model", "org%2fmain%20model"):
        assert httpx.get(f"{gateway.url}/v1/models/{path}").json()["id"] == NAMES[0]


def test_the_version(gateway: Instance):
    assert httpx.get(f"{gateway.url}/version").json()["version"] == vgate.__version__


def test_tokens_of_both_tasks(gateway: Instance):
    for model in (*MODELS, None):
        body = {"model": model, "prompt": "hé!", "return_token_strs": True}
        answer = httpx.post(f"{gateway.url}/tokenize", json=body).json()
        assert answer["tokens"] == list("hé!".encode())
        assert answer["token_strs"][1] == "<0xC3>"
        body = {"model": model, "tokens": answer["tokens"]}
        assert httpx.post(f"{gateway.url}/detokenize", json=body).json() == {"prompt": "hé!"}
    request = {**chat("hi"), "model": NAMES[0]}
    usage = httpx.post(gateway.url + CHAT, json=request).json()["usage"]
    counted = httpx.post(f"{gateway.url}/tokenize", json=request).json()
    assert counted["count"] == usage["prompt_tokens"]


def test_embeddings_with_vllms_fields(client: openai.OpenAI):
    whole = client.embeddings.create(model="embedder", input=["abcdefgh", "abcd"])
    cut = client.embeddings.create(
        model="embedder",
        input="abcdefgh",
        encoding_format="float",
        extra_body={"truncate_prompt_tokens": 4},
    )
    assert cut.usage.prompt_tokens == 4
    assert cut.data[0].embedding == pytest.approx(whole.data[1].embedding, abs=1e-6)
    short = client.embeddings.create(model="embedder", input="abc", dimensions=5)
    assert math.hypot(*short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input="abc", dimensions=1000)
    assert caught.value.param == "dimensions"


def test_more_inputs_than_the_queue_holds(client: openai.OpenAI):
    inputs = [f"text {n}" for n in range(2048)]
    answer = client.embeddings.create(model="embedder", input=inputs)
    assert [item.index for item in answer.data] == list(range(2048))
    one = client.embeddings.create(model="embedder", input=inputs[2047])
    assert answer.data[2047].embedding == one.data[0].embedding


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"NaN",
        b'{"prompt": NaN, "tokens": [NaN], "input": NaN, "model": "embedder"}',
        b'{"tokens": [1e400], "prompt": 1e400, "input": 1e400, "model": "embedder"}',
        b'{"tokens": [%s], "input": [%s], "prompt": 1, "model": "embedder"}' % (2 * (b"9" * 5000,)),
        b'{"prompt": "\xff", "input": "\xff", "tokens": "\xff", "model": "embedder"}',
        b'{"prompt": "\\udc00", "input": "\\udc00", "tokens": "\\udc00", "model": "embedder"}',
        DEEP % (2 * (b"[" * 200_000 + b"]" * 200_000,)),
        DEEP % (2 * (b'{"a":' * 50_000 + b"1" + b"}" * 50_000,)),
        DEEP % (2 * (b"[" * 200_000,)),
        b'{"model": "%s", "prompt": 1, "input": 1, "tokens": 1}' % (b"m" * 1_000_000),
        b'{"%s": 1}' % (b"k" * 1_000_000),
        b'{"model": "embedder", "input": [%s], "tokens": [%s]}'
        % (2 * (b",".join([b'"a"'] * 500_000),)),
    ],
    ids=range(17),
)
def test_no_body_causes_an_internal_error(gateway: Instance, body: bytes):
    for path in PATHS["POST"]:
        answer = httpx.post(gateway.url + path, content=body, timeout=30)
        assert answer.status_code in {400, 404, 413}, (path, answer.text[:300])
        assert answer.json()["error"]["message"]


def test_large_requests_are_answered(gateway: Instance):
    text = "x" * 1_000_000
    for path, body, key in (
        ("/tokenize", {"prompt": text}, "count"),
        ("/detokenize", {"tokens": [120] * 400_000}, "prompt"),
    ):
        answer = httpx.post(gateway.url + path, json=body, timeout=60)
        assert answer.status_code == 200, answer.text[:300]
        assert answer.json()[key] in (len(text), "x" * 400_000)
    body = {"model": "embedder", "input": text}
    answer = httpx.post(f"{gateway.url}/v1/embeddings", json=body, timeout=60)
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_other_methods(gateway: Instance):
    for right, paths in PATHS.items():
        for path in paths:
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - {right}:
                answer = httpx.request(method, gateway.url + path)
                assert (answer.status_code, answer.headers["allow"]) == (405, right)


def test_an_unknown_method(gateway: Instance):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(
            b"BREW /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(100).split(b" ")[1] in {b"400", b"405"}
