"""Several frontends that route to several engines: identical requests, conversations, deaths."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT

WORKERS, REPLICAS = 3, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    run_dirs: Path = tmp_path_factory.mktemp("routing")
    settings: dict[str, Any] = {
        "server__workers": WORKERS,
        "cache__enabled": True,
        "model__replicas": REPLICAS,
        "dry_run__step_ms": 10,
        "dry_run__prefill_tokens_per_s": 20_000,
    }
    with Instance(run_dirs, dry_run=True, **settings) as server:
        wait_until(lambda: serving(server) == REPLICAS, 60, "all replicas serve")
        yield server


def serving(server: Instance) -> int:
    data = httpx.get(f"{server.url}/admin/engines", timeout=10).json()["data"]
    return sum(engine["state"] == "ready" and engine["serves"] for engine in data)


def routed(server: Instance, label: str) -> dict[str, float]:
    """Return how many sequences were routed, by reason or replica."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines():
        if line.startswith("vgate_routed_sequences_total{"):
            labels, value = line.rsplit(" ", 1)
            name = labels.split(f'{label}="')[1].split('"')[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


async def ask(server: Instance, messages: list[dict[str, str]], tokens: int = 60) -> httpx.Response:
    """Ask over a connection of its own, so that any frontend may get it."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        body = {"messages": messages, "max_tokens": tokens}
        return await client.post(f"{server.url}{CHAT}", json=body)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_identical_requests_to_several_frontends_share_one_generation(server: Instance):
    async def scenario() -> list[list[str]]:
        rounds = []
        for number in range(12):
            # Others make loads differ.
            others = [ask(server, [user(f"{number} other {n} " * 9)]) for n in range(6)]
            same = [ask(server, [user(f"{number} the same " * 9)]) for _ in range(8)]
            answers = await asyncio.gather(*same, *others)
            assert {answer.status_code for answer in answers} == {200}
            assert len({a.json()["choices"][0]["message"]["content"] for a in answers[:8]}) == 1
            rounds.append([answer.headers["x-vgate-cache"] for answer in answers[:8]])
        return rounds

    generated = [outcomes.count("miss") for outcomes in asyncio.run(scenario())]
    # One for each frontend would be without agreement: their views differ by what others just sent.
    assert sum(count == 1 for count in generated) >= 8
    assert max(generated) <= WORKERS


def test_conversations_find_their_prefix_over_any_frontend(server: Instance):
    async def talk(number: int) -> list[int]:
        messages, cached = [user(f"{number} begins " * 60)], []
        for turn in range(4):
            answer = (await ask(server, messages)).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            messages.append(answer["choices"][0]["message"])
            messages.append(user(f"and {turn} then"))
            await asyncio.sleep(0.1)
        return cached

    async def scenario() -> list[list[int]]:
        return await asyncio.gather(*(talk(number) for number in range(6)))

    before = routed(server, "reason")
    for cached in asyncio.run(scenario()):
        assert all(tokens >= 500 for tokens in cached[1:])
    after = routed(server, "reason")
    assert after["prefix"] - before.get("prefix", 0) >= 15


def test_requests_go_on_when_replicas_die_and_the_next_ones_prove_themselves(server: Instance):
    async def scenario() -> None:
        requests = [ask(server, [user(f"{n} lives " * 40)], 200) for n in range(30)]
        tasks = [asyncio.create_task(request) for request in requests]
        await asyncio.sleep(0.7)
        os.kill(server.pid_of("engine-1"), signal.SIGKILL)
        answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 30

    asyncio.run(scenario())
    wait_until(lambda: serving(server) == REPLICAS, 60, "it is back")

    async def more() -> None:
        # In waves: first tokens are what it proves itself with.
        for number in range(8):
            await asyncio.gather(*(ask(server, [user(f"{number} {n}")], 5) for n in range(12)))

    before = routed(server, "replica")
    asyncio.run(more())
    wait_until(
        lambda: routed(server, "replica")["1"] - before.get("1", 0) >= 12, 20, "it has its part"
    )
