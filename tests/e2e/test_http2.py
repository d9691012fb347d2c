"""HTTP/2 without TLS, beside HTTP/1.1 on the same port."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.http2 import Http2
from tests.e2e.instance import Instance, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(run_dirs: Path) -> Iterator[Instance]:
    with Instance(
        run_dirs, dry_run=True, server__workers=1, server__http2=True, dry_run__step_ms=20
    ) as instance:
        yield instance
        assert instance.has_problem() is None


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello!"}], **fields}


def text_of_stream(body: bytes) -> str:
    *events, done, rest = body.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_answers_and_streams_share_a_connection(gateway: Instance):
    with Http2(gateway.port) as connection:
        whole, streamed = (
            connection.request("POST", CHAT, json.dumps(chat(stream=stream)).encode())
            for stream in (False, True)
        )
        assert json.loads(connection.body(whole))["choices"][0]["message"]["content"] == "Hello!"
        assert text_of_stream(connection.body(streamed)) == "Hello!"
        # A body that nobody reads, and no length.
        missing = connection.request("POST", "/nothing", b"x" * 10_000)
        assert json.loads(connection.body(missing))["error"]["code"] == "not_found"
        health = connection.request("GET", "/health")
        assert json.loads(connection.body(health))["status"] == "ok"
        assert connection.succeeded == {whole, streamed, health}


def test_answers_to_head_have_no_body(gateway: Instance):
    with Http2(gateway.port) as connection:
        known, unknown = (connection.request("HEAD", path) for path in ("/health", "/nothing"))
        assert connection.body(known) == connection.body(unknown) == b""
        assert connection.succeeded == {known}
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        length = client.get("/health").headers["content-length"]
        assert client.head("/health").headers["content-length"] == length
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_taken_back_is_aborted(gateway: Instance, stream: bool):
    def running() -> int:
        engine = httpx.get(f"{gateway.url}/stats", timeout=10).json()["engines"][0]
        return int(engine["running"])

    # About half a minute long.
    long = chat(stream=stream, max_tokens=1500, ignore_eos=True)
    with Http2(gateway.port) as connection:
        asked = connection.request("POST", CHAT, json.dumps(long).encode())
        if stream:
            while connection.receive() != (asked, b""):
                pass
            assert connection.receive()[1].startswith(b"data: ")
        wait_until(lambda: running() == 1, 10, "it runs")
        connection.cancel(asked)
        wait_until(lambda: running() == 0, 10, "it was aborted")
        # The connection goes on.
        health = connection.request("GET", "/health")
        assert json.loads(connection.body(health))["status"] == "ok"


def test_http_1_is_served_on_the_same_port(gateway: Instance):
    answer = httpx.post(f"{gateway.url}{CHAT}", json=chat(), timeout=30)
    assert (answer.http_version, answer.status_code) == ("HTTP/1.1", 200)


def test_it_is_off_by_default(dry_run: Instance):
    with pytest.raises((AssertionError, OSError)), Http2(dry_run.port) as connection:
        connection.body(connection.request("GET", "/health"))
