"""Streams pass real proxies that close a quiet connection long before the first token."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.instance import Instance
from tests.e2e.proxies import PROXIES, Proxy

READ_TIMEOUT_S = 2
# Each of an answer's tokens takes longer than a proxy waits.
SLOW = {"dry_run": True, "dry_run__step_ms": 1000 * (READ_TIMEOUT_S + 1)}
TOKENS = 2
HELLO = [{"role": "user", "content": "Hello!"}]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=PROXIES)
def program(request: pytest.FixtureRequest) -> str:
    """The name of an installed proxy."""
    name: str = request.param
    if PROXIES[name].path is None:
        pytest.skip(f"{name} is not installed ({PROXIES[name].found_in})")
    return name


@pytest.fixture(scope="module")
def proxy(
    run_dirs: Path, tmp_path_factory: pytest.TempPathFactory, program: str
) -> Iterator[Proxy]:
    """A proxy before an instance that keeps its streams alive."""
    directory = tmp_path_factory.mktemp(program)
    with (
        Instance(run_dirs, server__stream_keepalive_s=0.5, **SLOW) as instance,
        Proxy(program, directory, instance.url, READ_TIMEOUT_S) as proxy,
    ):
        yield proxy


def client(proxy: Proxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="unused", max_retries=0, timeout=60)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, "max_tokens": TOKENS, "stream": True, **fields}


def test_without_it_a_proxy_gives_up(run_dirs: Path, tmp_path: Path, program: str):
    with (
        Instance(run_dirs, server__stream_keepalive_s=0, **SLOW) as instance,
        Proxy(program, tmp_path, instance.url, READ_TIMEOUT_S) as proxy,
    ):
        answer = httpx.post(f"{proxy.url}/v1/chat/completions", json=chat_body(), timeout=60)
        assert answer.status_code in {502, 504}


def test_the_official_client_reads_every_kind_of_stream(proxy: Proxy):
    def chat() -> list[str]:
        with client(proxy) as asking:
            stream = asking.chat.completions.create(**chat_body())
            return [chunk.choices[0].finish_reason for chunk in stream]

    def completion() -> list[str]:
        with client(proxy) as asking:
            stream = asking.completions.create(
                model="m", prompt="Hello!", max_tokens=TOKENS, stream=True
            )
            return [chunk.choices[0].finish_reason for chunk in stream]

    def response() -> list[str]:
        with client(proxy) as asking:
            stream = asking.responses.create(
                model="m", input="Hello!", max_output_tokens=TOKENS, stream=True
            )
            return [event.type for event in stream]

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(ask) for ask in (chat, completion, response)]
        ends = [asked.result(60)[-1] for asked in running]
    assert ends == ["length", "length", "response.incomplete"]


@pytest.mark.parametrize(
    ("path", "kept_alive", "end"),
    [
        ("/v1/chat/completions", ": keep-alive\n\n", "data: [DONE]\n\n"),
        ("/v1/messages", 'event: ping\ndata: {"type": "ping"}\n\n', '{"type":"message_stop"}\n\n'),
    ],
    ids=["chat", "messages"],
)
def test_each_part_passes_at_once(proxy: Proxy, path: str, kept_alive: str, end: str):
    with httpx.stream("POST", f"{proxy.url}{path}", json=chat_body(), timeout=60) as answer:
        assert answer.status_code == 200
        parts = list(answer.iter_text())
    # The proxy collected nothing: what came before the first token came alone.
    assert parts[0].endswith(kept_alive)
    assert parts.count(kept_alive) > TOKENS
    assert "".join(parts).endswith(end)
