"""Streams pass a real nginx that closes a quiet connection long before the first token."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, free_port, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
READ_TIMEOUT_S = 2
# Each of an answer's tokens takes longer than nginx waits.
SLOW = {"dry_run": True, "dry_run__step_ms": 1000 * (READ_TIMEOUT_S + 1)}
TOKENS = 2
HELLO = [{"role": "user", "content": "Hello!"}]
# As docs/operations.md has it, with a shorter timeout and all files in one directory.
CONFIGURATION = """\
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_read_timeout {read_timeout_s}s;
            client_max_body_size 8m;
        }}
    }}
}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian's package: nginx)"),
]


class Nginx:
    """An nginx before one server; a context manager."""

    def __init__(self, directory: Path, target: str, read_timeout_s: float) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._directory = directory
        text = CONFIGURATION.format(port=port, target=target, read_timeout_s=read_timeout_s)
        (directory / "nginx.conf").write_text(text)

    def __enter__(self) -> Self:
        assert NGINX is not None
        self._log = (self._directory / "log").open("wb")
        where = ["-p", str(self._directory), "-c", "nginx.conf", "-e", "stderr"]
        self._process = subprocess.Popen([NGINX, *where], stdout=self._log, stderr=self._log)
        try:
            wait_until(self._passes, 20, "nginx passes requests on")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _passes(self) -> bool:
        log = (self._directory / "log").read_text()
        assert self._process.poll() is None, log
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def proxy(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """An nginx before an instance that keeps its streams alive."""
    directory = tmp_path_factory.mktemp("nginx")
    with (
        Instance(run_dirs, server__stream_keepalive_s=0.5, **SLOW) as instance,
        Nginx(directory, instance.url, READ_TIMEOUT_S) as nginx,
    ):
        yield nginx


def client(proxy: Nginx) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="unused", max_retries=0, timeout=60)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, "max_tokens": TOKENS, "stream": True, **fields}


def test_without_it_nginx_gives_up(run_dirs: Path, tmp_path: Path):
    with (
        Instance(run_dirs, server__stream_keepalive_s=0, **SLOW) as instance,
        Nginx(tmp_path, instance.url, READ_TIMEOUT_S) as nginx,
    ):
        answer = httpx.post(f"{nginx.url}/v1/chat/completions", json=chat_body(), timeout=60)
        assert answer.status_code == 504


def test_the_official_client_reads_every_kind_of_stream(proxy: Nginx):
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
def test_each_part_passes_at_once(proxy: Nginx, path: str, kept_alive: str, end: str):
    with httpx.stream("POST", f"{proxy.url}{path}", json=chat_body(), timeout=60) as answer:
        assert answer.status_code == 200
        parts = list(answer.iter_text())
    # nginx collected nothing: what came before the first token came alone.
    assert parts[0].endswith(kept_alive)
    assert parts.count(kept_alive) > TOKENS
    assert "".join(parts).endswith(end)
