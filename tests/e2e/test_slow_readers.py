"""A client that reads nothing of a long stream is cut, and nobody else notices."""

import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, endless

TOKENS = 20_000
KEY = {"Authorization": "Bearer sk-slow"}

pytestmark = pytest.mark.slow


def request(port: int, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost:{port}\r\n"
        f"authorization: {KEY['Authorization']}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def read_all(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        pass


def test_a_client_that_never_reads(run_dirs: Path) -> None:
    keys = [
        {"name": "slow", "key": "sk-slow", "concurrent": 1},
        {"name": "other", "key": "sk-other"},
        {"name": "boss", "key": "sk-boss", "admin": True, "rate_limit": 100_000},
    ]
    body = endless("on and on ", max_tokens=TOKENS, logprobs=True, top_logprobs=20)
    other = {**endless("something else ", max_tokens=TOKENS), "stream": True}
    with (
        Instance(
            run_dirs,
            dry_run=True,
            server__workers=1,
            server__write_timeout_s=2,
            server__max_unsent_bytes=4 << 20,
            model__max_model_len=32_768,
            dry_run__step_ms=1,
            security__enabled=True,
            security__api_keys=keys,
        ) as server,
        socket.create_connection(("127.0.0.1", server.port), 60) as stuck,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        worker = psutil.Process(server.pid_of("frontend-1"))
        before = most = worker.memory_info().rss

        def running() -> int:
            return int(server.stats("sk-boss")["slow"]["concurrent"])

        stuck.sendall(request(server.port, {**body, "stream": True}))
        wait_until(lambda: running() == 1, 30, "it runs")
        headers = {"Authorization": "Bearer sk-other"}
        with client.stream("POST", CHAT, json=other, headers=headers) as stream:
            events = (line for line in stream.iter_lines() if line)
            for _ in events:
                most = max(most, worker.memory_info().rss)
                if "is cut" in server.logs():
                    break
            # This one goes on.
            assert next(events).startswith("data: {")
        # Of an answer of about 56 MB.
        assert most - before < 40 << 20
        wait_until(lambda: running() == 0, 30, "it ended")
        answer = client.post(CHAT, json={**body, "max_tokens": 1}, headers=KEY)
        assert answer.status_code == 200
        with pytest.raises(ConnectionResetError):
            read_all(stuck)
        assert server.has_problem() is None
