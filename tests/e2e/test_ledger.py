"""The ledger equals a load over four workers that are killed meanwhile, to the token.

`VGATE_TEST_LEDGER_REQUESTS` is how many requests are sent.
"""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import CHAT, chat
from vgate.usage import Used, read_usage

REQUESTS = int(os.environ.get("VGATE_TEST_LEDGER_REQUESTS", "500"))
KILLS = 5
CLIENTS = 12
BUDGET = 1000
BUDGETED = "budgeted"
KEYS = [f"key-{number}" for number in range(CLIENTS)]
SECURITY = [
    *({"name": name, "key": f"sk-{name}"} for name in KEYS),
    {"name": BUDGETED, "key": f"sk-{BUDGETED}", "budget_tokens": BUDGET, "budget_period": "month"},
    {"name": "admin", "key": "sk-admin", "admin": True},
]
_REFUSALS = 5
_COUNTS = re.compile(rb'"prompt_tokens":(\d+),.*?"completion_tokens":(\d+)')


class Client:
    """Sends one request after the other with a key, each with an answer of another length.

    Attributes:
        complete: What the answers told that came in full.
        cut: The answers' lengths of those that may have been complete for their worker.
        prompt_tokens: Of each request.
    """

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self.complete = Used()
        self.cut: list[int] = []
        self.refused = 0
        self.prompt_tokens = 0
        self._lengths = list(range(1, 60))

    async def send(self, number: int) -> None:
        # No two of those that are cut have the same length, as long as they are few.
        length = self._lengths.pop(random.randrange(len(self._lengths)))
        stream = number % 3 > 0
        fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        body = chat("a b c", max_tokens=length, ignore_eos=True, **fields)
        status, content = await self._exchange(json.dumps(body).encode())
        whole = b"[DONE]" in content if stream else content.endswith(b"}")
        told = _COUNTS.search(content)
        if status == 429:
            assert b"insufficient_quota" in content
            self.refused += 1
        elif status == 200 and whole:
            assert told is not None, content
            prompt, completion = map(int, told.groups())
            assert completion == length
            self.prompt_tokens = prompt
            self.complete += Used(1, prompt, 0, completion)
        else:
            assert status in {None, 200}, content
            self.cut.append(length)
            return
        self._lengths.append(length)

    async def _exchange(self, body: bytes) -> tuple[int | None, bytes]:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"authorization: Bearer sk-{self._key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        received = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(head.encode() + body)
                while piece := await reader.read(65_536):
                    received += piece
            finally:
                writer.close()
        except OSError:
            pass
        found = re.match(rb"HTTP/1\.1 (\d+)", received)
        content = received.partition(b"\r\n\r\n")[2]
        length = re.search(rb"content-length: (\d+)", received)
        if length and len(content) < int(length[1]):
            content = b""
        return int(found[1]) if found else None, content


async def load(instance: Instance) -> list[Client]:
    """Send all requests, and kill a worker again and again."""
    numbers = iter(range(REQUESTS))
    clients = [Client(instance.port, key) for key in (*KEYS, BUDGETED, BUDGETED)]

    async def send(client: Client) -> None:
        for number in numbers:
            if client.refused > _REFUSALS:
                return  # they are quick, and the other clients are to send the rest
            if number and number % max(1, REQUESTS // (KILLS + 1)) == 0:
                pids = [pid for role, pid in instance.pids().items() if "frontend" in role]
                os.kill(random.choice(pids), signal.SIGKILL)
            await client.send(number)

    await asyncio.gather(*map(send, clients))
    return clients


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def start(run_dirs: Path, state: Path) -> Instance:
    return Instance(
        run_dirs,
        dry_run=True,
        server__workers=4,
        server__state_dir=str(state),
        supervision__max_restarts=1000,
        security__enabled=True,
        security__api_keys=SECURITY,
        security__rate_limiting__enabled=False,
        metrics__per_key=True,
        dry_run__step_ms=1,
    )


def is_explained(ledger: Used, client: Client) -> bool:
    """Whether the ledger has all complete answers of a client, and of the cut ones some in full."""
    more = ledger.requests - client.complete.requests
    left = ledger.completion_tokens - client.complete.completion_tokens
    prompts = ledger.prompt_tokens - client.complete.prompt_tokens
    return (
        0 <= more <= len(client.cut)
        and prompts == more * client.prompt_tokens
        and any(sum(some) == left for some in combinations(client.cut, more))
    )


def ledger_of(state: Path) -> dict[str | None, Used]:
    return {row.key: row.used for row in read_usage(state, by=["key"])}


def left(state: Path) -> list[Path]:
    """Return the files that are not folded for good."""
    return list((state / "usage").glob("*.counts"))


@pytest.mark.timeout(max(120, REQUESTS / 10))
def test_the_ledger_equals_the_load(run_dirs: Path, state: Path) -> None:
    server = start(run_dirs, state)
    try:
        server.launch().wait_ready()
        clients = asyncio.run(load(server))
        # The last worker that was killed may not serve yet.
        wait_until(server.ready, 60, "ready")
        found = ledger_of(state)
        one_key = {client._key: client for client in clients[:CLIENTS]}
        for key, client in one_key.items():
            assert is_explained(found[key], client), (key, found[key], client.complete, client.cut)
        assert sum(client.complete.requests for client in clients) > REQUESTS * 0.8
        cut = sum(len(client.cut) for client in clients)
        print(f"{REQUESTS} requests, {cut} cut, ledger {sum(found.values(), start=Used())}")

        assert all(used.errors == 0 for used in found.values())
        assert 0 < found[BUDGETED].tokens <= BUDGET
        assert sum(client.refused for client in clients) > _REFUSALS
        answered = sum((client.complete for client in clients[CLIENTS:]), start=Used())
        assert answered.tokens <= found[BUDGETED].tokens
        headers = {"authorization": "Bearer sk-admin"}
        answer = httpx.get(f"{server.url}/v1/usage?by=key", headers=headers).json()
        assert {row["key"]: row["requests"] for row in answer["data"]} == {
            key: used.requests for key, used in found.items()
        }
        for named, sent in ((True, headers), (False, {})):
            metrics = httpx.get(f"{server.url}/metrics", headers=sent).text
            series = 'vgate_key_tokens_total{key="key-1",kind="completion"}'
            assert (series in metrics) == named

        # Everything is killed at once: the files have it all.
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        wait_until(lambda: ledger_of(state) == found, 10, "the same ledger")
    finally:
        server.discard()
    told = subprocess.run(
        [sys.executable, "-m", "vgate.launcher", "usage", "--by", "key", "--json"],
        cwd=ROOT,
        env={**os.environ, "VGATE_SERVER__STATE_DIR": str(state), "VGATE_CONFIG_PATH": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(told.stdout)["data"]
    assert {row["key"]: row["completion_tokens"] for row in rows} == {
        key: used.completion_tokens for key, used in found.items()
    }

    # The next instance folds what is left, and the budget is still used.
    with start(run_dirs, state) as server:
        wait_until(lambda: not left(state), 30, "all is folded")
        assert ledger_of(state) == found
        headers = {"authorization": f"Bearer sk-{BUDGETED}"}
        (limits,) = httpx.get(f"{server.url}/stats", headers=headers).json()["limits"]
        assert limits["budget_used"] == found[BUDGETED].tokens
    assert ledger_of(state) == found
    assert not left(state)
