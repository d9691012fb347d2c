"""Every HTTP request gets a proper answer and leaves nothing behind.

VGATE_FUZZ_REQUESTS sets how many requests are made, VGATE_FUZZ_SEED which.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx
import psutil
import pytest

from bench.loop_holds import recorded
from tests.e2e.fuzz_answers import check_answer, check_error
from tests.e2e.fuzz_requests import EMBEDDER, MAIN, RANKER, ROUTES, Fuzzed, fuzzed
from tests.e2e.instance import Instance, wait_until
from tests.e2e.keep_alive import Client, json_post

REQUESTS = int(os.environ.get("VGATE_FUZZ_REQUESTS", "3000"))
SEED = int(os.environ.get("VGATE_FUZZ_SEED", "1"))
CLIENTS = 16
# Longer than V-Gate waits for a body. One in tens of thousands of pieces is read a piece in each
# turn of the loop.
TIMEOUT_S = 90
MAX_FAILURES = 10
MIB = 1024 * 1024
# A frontend's allocator and its caches settle within the first parts; then memory may waver.
PARTS = 24
MOST_GROWTH_BYTES = 48 * MIB
# The processor time of a worker between two turns of its loop, other threads' included, is 50 ms at
# most on an idle machine.
MOST_HELD_S = 0.25


@pytest.fixture(scope="module")
def server(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Two workers, a queue that never fills, small caches."""
    with Instance(
        run_dirs,
        dry_run=True,
        holds=tmp_path_factory.mktemp("holds"),
        server__workers=2,
        model__served_model_name=MAIN,
        model__max_model_len=1024,
        model__allow_request_chat_template=True,
        additional_models=[
            {"model_id": EMBEDDER, "task": "embed"},
            {"model_id": RANKER, "task": "classify"},
        ],
        batch__max_num_seqs=64,
        batch__max_queue_size=1_000_000,
        batch__max_wait_time_ms=0,
        cache__enabled=True,
        cache__max_bytes=2 * MIB,
        dry_run__step_ms=0.1,
        dry_run__prefill_tokens_per_s=10_000_000,
        dry_run__kv_cache_tokens=1_000_000,
    ) as instance:
        yield instance


class Fuzzer:
    """Sends requests and checks the answers; a failure names its request.

    Attributes:
        outcomes: How often a route answered with a status.
        failures: What was wrong.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.outcomes: Counter[tuple[str, int]] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._seed = seed

    async def run(self, numbers: range) -> None:
        work = iter(numbers)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client(work))

    async def _client(self, work: Iterator[int]) -> None:
        with Client(self._port) as client:
            for number in work:
                if len(self.failures) >= MAX_FAILURES:
                    return
                request = fuzzed(self._seed, number)
                try:
                    await self._check(client, request, Random(number))
                except Exception as error:  # noqa: BLE001 - any, reported with its request
                    what = f"{type(error).__name__}: {error}"
                    self.failures.append(
                        f"seed {self._seed}, request {number}: {what}\n{request.data[:3000]!r}"
                    )

    async def _check(self, client: Client, request: Fuzzed, rng: Random) -> None:
        if request.left:
            await client.leave(request.data, rng.choice((0.001, 0.01, 0.05)))
            return
        reply = await client.send(request.data, TIMEOUT_S)
        self.outcomes[request.path, reply.status] += 1
        assert reply.headers["x-request-id"]
        if reply.status == 200:
            check_answer(request.path, reply)
        else:
            check_error(request.path, reply)


def frontends(server: Instance) -> dict[int, int]:
    """Return the resident bytes of each frontend."""
    pids = [pid for role, pid in server.pids().items() if role.startswith("frontend")]
    return {pid: psutil.Process(pid).memory_info().rss for pid in pids}


def gauges(server: Instance) -> dict[str, float]:
    """Return the gauges."""
    wanted = ("vgate_running_requests", "vgate_waiting_requests", "vgate_kv_cache_usage_ratio")
    lines = httpx.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(wanted))
    }


def idle(server: Instance) -> bool:
    """Whether nothing runs, waits or holds KV cache, by the heartbeats."""
    engines: list[dict[str, Any]] = httpx.get(f"{server.url}/stats", timeout=10).json()["engines"]
    assert len(engines) == 3
    told = [engine[name] for engine in engines for name in ("running", "waiting", "kv_cache_usage")]
    shown = gauges(server)
    assert len(shown) == len(told)
    return not any(told) and not any(shown.values())


def check_serves(server: Instance) -> None:
    """Check that both models still answer."""

    async def ask() -> list[int]:
        with Client(server.port) as client:
            messages = [{"role": "user", "content": "still there?"}]
            chat = {"model": MAIN, "messages": messages}
            replies = [
                await client.send(json_post("/v1/chat/completions", chat)),
                await client.send(json_post("/v1/embeddings", {"model": EMBEDDER, "input": "a"})),
            ]
            answer = json.loads(replies[0].body)["choices"][0]["message"]["content"]
            assert answer == "still there?"
            return [reply.status for reply in replies]

    assert asyncio.run(ask()) == [200, 200]


def test_no_request_does_harm(server: Instance):
    pids = server.pids()
    fuzzer = Fuzzer(server.port, SEED)
    sizes, began = [], 0.0
    for part in range(PARTS):
        numbers = range(REQUESTS * part // PARTS, REQUESTS * (part + 1) // PARTS)
        asyncio.run(fuzzer.run(numbers))
        began = began or time.monotonic()
        assert not fuzzer.failures, "\n\n".join([*fuzzer.failures, server.logs()[-5000:]])
        wait_until(lambda: idle(server), 20, "nothing is left of the requests")
        sizes.append(frontends(server))
    assert server.holds is not None
    holds = [hold for hold in recorded(server.holds) if hold.at > began]
    held_s = max((hold.process_s for hold in holds), default=0.0)
    print(f"outcomes {fuzzer.outcomes}, a loop held {held_s} s")
    print(*sorted(holds, key=lambda hold: -hold.loop_s)[:3], sep="\n")
    assert held_s < MOST_HELD_S
    for pid in sizes[0]:
        shown = [part[pid] for part in sizes]
        first, *_, before, last = (
            median(shown[at : at + PARTS // 4]) for at in range(0, PARTS, PARTS // 4)
        )
        grown = (last - before) / MIB
        print(f"MiB: {[round(size / MIB, 1) for size in shown]}, in the last quarter {grown:+.2f}")
        assert last - first < MOST_GROWTH_BYTES
    check_serves(server)
    assert server.pids() == pids
    assert not server.has_problem()
    # Both kinds of answers were there to be checked.
    for route in ROUTES:
        right = fuzzer.outcomes[route.path, 200]
        wrong = sum(n for (path, status), n in fuzzer.outcomes.items() if path == route.path)
        assert right > REQUESTS / 300, route.path
        assert wrong - right > REQUESTS / 300, route.path
