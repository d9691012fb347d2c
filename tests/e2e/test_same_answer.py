"""Streamed and buffered answers are equal: random requests of every API, coalesced and cached.

VGATE_SAME_ANSWER_REQUESTS sets how many, VGATE_SAME_ANSWER_SEED which.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.e2e.answer_content import Content, content_of
from tests.e2e.instance import Instance
from tests.e2e.keep_alive import Client, Reply, json_post
from tests.e2e.same_answer_cases import MAIN, PARSERS, Case, case

REQUESTS = int(os.environ.get("VGATE_SAME_ANSWER_REQUESTS", "1000"))
SEED = int(os.environ.get("VGATE_SAME_ANSWER_SEED", "1"))
CLIENTS = 12
MAX_FAILURES = 10
SETTINGS: dict[str, Any] = {
    "server__workers": 2,
    "model__served_model_name": MAIN,
    "additional_models": [
        {"model_id": name, "task": "generate", "tool_parser": name, "max_model_len": 8192}
        for name in PARSERS
    ],
    "model__max_model_len": 8192,
    "batch__max_num_seqs": 64,
    "dry_run__step_ms": 0.2,
    "dry_run__prefill_tokens_per_s": 10_000_000,
    "dry_run__kv_cache_tokens": 1_000_000,
    # What is cached of a prompt depends on the requests before it.
    "dry_run__prefix_cache": False,
}
CACHE = "x-vgate-cache"


@pytest.fixture(scope="module")
def plain(run_dirs: Path) -> Iterator[Instance]:
    """Every answer comes from its own sequence in the engine."""
    with Instance(run_dirs, dry_run=True, **SETTINGS) as instance:
        yield instance
        assert not instance.has_problem()


@pytest.fixture(scope="module")
def cached(run_dirs: Path) -> Iterator[Instance]:
    """An answer may come from the cache or from another request in flight."""
    with Instance(
        run_dirs, dry_run=True, cache__enabled=True, cache__maxsize=100_000, **SETTINGS
    ) as instance:
        yield instance
        assert not instance.has_problem()


def streamed(wanted: Case, rng: Random) -> dict[str, Any]:
    """Return the same request, to be streamed."""
    body = {**wanted.body, "stream": True}
    if "completions" in wanted.path:
        options = {"include_usage": True, "continuous_usage_stats": rng.random() < 0.3}
        body["stream_options"] = options
    return body


def features(answer: Content) -> Iterator[str]:
    """Yield the features of an answer, to check that all were compared."""
    yield "several choices" if len(answer["choices"]) > 1 else "one choice"
    for choice in answer["choices"]:
        yield f"ended by {choice['finish_reason'] or answer.get('status')}"
        for name in ("text", "reasoning", "calls", "logprobs", "token_ids", "stop_reason"):
            if choice[name]:
                yield name
        if len(choice["calls"]) > 1:
            yield "several calls"


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the differences of two answers."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from differences(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif one != other or type(one) is not type(other):
        yield f"{where}: {one!r} != {other!r}"


class Comparison:
    """Sends cases and compares the answers; a failure names its case.

    Attributes:
        seen: How often something was in an answer.
        cache: How often an answer came from where, as its header says.
        failures: What was different or wrong, with its case.
    """

    def __init__(self, port: int, seed: int, numbers: range, rounds: int) -> None:
        self.seen: Counter[str] = Counter()
        self.cache: Counter[str] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._seed = seed
        self._work = iter(numbers)
        self._rounds = rounds

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        with Client(self._port) as one, Client(self._port) as other:
            for number in self._work:
                if len(self.failures) >= MAX_FAILURES:
                    return
                wanted = case(self._seed, number)
                try:
                    await self._compare(wanted, Random(number), one, other)
                except Exception as error:  # noqa: BLE001 - any, reported with its case
                    what = str(error) or repr(error)
                    text = json.dumps(wanted.body)
                    self.failures.append(
                        f"seed {self._seed}, case {number}: {what}\n{wanted.path} {text}"
                    )

    async def _compare(self, wanted: Case, rng: Random, *clients: Client) -> None:
        requests = [
            json_post(wanted.path, wanted.body),
            json_post(wanted.path, streamed(wanted, rng)),
        ]
        expected: Any = None
        for _ in range(self._rounds):
            rng.shuffle(requests)
            replies = await asyncio.gather(
                *(client.send(request) for client, request in zip(clients, requests, strict=True))
            )
            for reply in replies:
                got = self._read(wanted.path, reply)
                expected = expected or got
                found = list(differences(got, expected))
                assert not found, "; ".join(found)
        self.seen.update([wanted.path, *(features(expected) if "choices" in expected else ())])

    def _read(self, path: str, reply: Reply) -> Any:
        if reply.status != 200:
            error = json.loads(reply.body)["error"]
            self.seen[f"refused: {error['message']}"] += 1
            return {"status": reply.status, "error": error}
        self.cache[reply.headers[CACHE]] += 1
        return content_of(path, reply)


FEATURES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "several choices",
    "ended by stop",
    "ended by length",
    "ended by tool_calls",
    "ended by completed",
    "ended by incomplete",
    "ended by end_turn",
    "ended by max_tokens",
    "ended by stop_sequence",
    "ended by tool_use",
    "text",
    "reasoning",
    "calls",
    "several calls",
    "logprobs",
    "token_ids",
    "stop_reason",
)


def check_seen(comparison: Comparison, requests: int) -> None:
    """Check that nothing differed, and that every feature was compared."""
    assert not comparison.failures, "\n\n".join(comparison.failures)
    rare = {name: comparison.seen[name] for name in FEATURES if not comparison.seen[name]}
    assert not rare
    refused = {name: n for name, n in comparison.seen.items() if name.startswith("refused")}
    assert refused == {}


def test_streamed_and_buffered_answers_are_equal(plain: Instance):
    comparison = Comparison(plain.port, SEED, range(REQUESTS), rounds=1)
    asyncio.run(comparison.run())
    check_seen(comparison, REQUESTS)
    assert set(comparison.cache) == {"bypass"}


def test_coalesced_and_cached_answers_are_equal(cached: Instance):
    requests = max(300, REQUESTS // 3)
    comparison = Comparison(cached.port, SEED, range(10**6, 10**6 + requests), rounds=2)
    asyncio.run(comparison.run())
    check_seen(comparison, requests)
    assert min(comparison.cache[outcome] for outcome in ("miss", "hit", "coalesced")) > 10
