"""The same over HTTP: a V-Gate with several simulated engines that keep a GPU's pace."""

import asyncio
import itertools
import random
import re
import string
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from statistics import median
from time import perf_counter
from typing import NamedTuple

import msgspec

from bench.chaos.instance import Instance, workplace
from bench.hosts import Hosts, deployed
from bench.load.answer import Answer, StreamAnswer
from bench.load.connection import Pool
from bench.load.histogram import Histogram
from bench.routing.simulation import MACHINE, Machine, Workload, oracle

_TIMEOUT_S = 300.0
# More than all replicas have places for.
_CLIENTS_PER_PLACE = 1.25
# Slow enough for a small machine to carry the streams of four.
_SATURATED_STEP_S = 0.05
_WARM_UP_S, _WINDOW_S = 10.0, 20.0
_POLICIES = ("round_robin", "prefix_aware")
# What each replica has computed: prompt tokens, and a sequence's step is a token generated.
_COUNTED = (b"prefix_cache_queries_total", b"prefix_cache_hits_total", b"batch_size_sum")
_COUNTS = re.compile(
    rb"^vgate_(%b)" % b"|".join(_COUNTED) + rb'\{(?:[^}]*replica="(\d+)")?[^}]*\} (\S+)$',
    re.MULTILINE,
)
# Of a request's line in the log.
_PREFILL_MS = re.compile(r"\bprefill_ms=([0-9.]+)")


class Work(NamedTuple):
    """What a replica has done: prompt tokens, those of them that were cached, tokens generated."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated: int = 0

    @property
    def tokens(self) -> int:
        """Those computed and generated."""
        return self.prompt_tokens - self.cached_tokens + self.generated

    def since(self, before: "Work") -> "Work":
        """Return what was done after that."""
        return Work(*(now - then for now, then in zip(self, before, strict=True)))


class Served(NamedTuple):
    """What came of a run.

    Attributes:
        tokens_per_s: Generated ones.
        ttft_s: Of each request, as its client saw it.
        prefill_s: Of each request, the part between its place in a batch and its first token.
        replicas: What each has done.
    """

    tokens_per_s: float
    ttft_s: list[float]
    prefill_s: list[float]
    replicas: list[Work]

    @property
    def prompt_tokens(self) -> int:
        """All of the prompts."""
        return sum(each.prompt_tokens for each in self.replicas)

    @property
    def cached_tokens(self) -> int:
        """Those that were not computed."""
        return sum(each.cached_tokens for each in self.replicas)

    @property
    def imbalance(self) -> float:
        """How much more than the mean the busiest replica has computed and generated."""
        work = [each.tokens for each in self.replicas]
        return max(work) * len(work) / sum(work)

    @property
    def prefilled(self) -> int:
        """The prompt tokens that were computed."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def hits(self) -> float:
        """The part of all prompt tokens that was cached."""
        return self.cached_tokens / self.prompt_tokens

    def ttft_at(self, share: float) -> float:
        """Return a percentile of the times to the first token."""
        return sorted(self.ttft_s)[min(len(self.ttft_s) - 1, int(share * len(self.ttft_s)))]


class _Client:
    """Sends prompts, to each gateway in turn, and reads streams."""

    def __init__(self, instance: Instance | Hosts) -> None:
        self._instance = instance
        self._pools = [Pool(target, keepalive=True) for target in instance.targets]
        self._pool_in_turn = itertools.cycle(self._pools)
        self._gaps = Histogram()
        self.ttft_s: list[float] = []
        self.tokens = 0

    async def ask(self, prompt: str, tokens: int) -> str:
        """Return what follows a prompt."""
        body = {
            "prompt": prompt,
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "temperature": 0,
        }
        text: dict[int, list[str]] = {}
        answer = StreamAnswer(perf_counter(), 1, text, self._gaps)
        await self._exchange("POST", "/v1/completions", msgspec.json.encode(body), answer)
        self.ttft_s.append(answer.first - answer.started)
        self.tokens += tokens
        return "".join(text[0])

    @property
    def received(self) -> int:
        """The tokens that have come so far, but for each answer's first."""
        return self._gaps.count

    @property
    def prefill_s(self) -> list[float]:
        """The time of each request in an engine, as the log has it."""
        found = (_PREFILL_MS.search(line) for _, line in list(self._instance.log))
        return [float(each[1]) / 1000 for each in found if each]

    async def work(self) -> dict[bytes, Work]:
        """Return what each replica has done."""
        # Engines tell with their next heartbeat.
        await asyncio.sleep(0.6)
        answer = Answer(perf_counter())
        await self._exchange("GET", "/metrics", b"", answer)
        found: dict[bytes, dict[bytes, int]] = {}
        for name, replica, value in _COUNTS.findall(answer.body):
            found.setdefault(replica, {})[name] = int(float(value))
        return {
            replica: Work(*(counts[name] for name in _COUNTED)) for replica, counts in found.items()
        }

    async def _exchange(self, method: str, path: str, body: bytes, answer: Answer) -> None:
        await next(self._pool_in_turn).send(method, path, body, answer, limit_s=_TIMEOUT_S)
        if answer.error is not None:
            raise ConnectionError(f"{answer.error}: {answer.detail}")

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


@asynccontextmanager
async def _running(
    policy: str, replicas: int, machine: Machine, *, hosts: bool
) -> AsyncIterator[_Client]:
    settings: dict[str, object] = {
        "server__workers": 2,
        "security__enabled": False,
        "model__max_model_len": 16_384,
        "routing__policy": policy,
        "batch__max_num_seqs": machine.max_num_seqs,
        "dry_run__step_ms": machine.inter_token_s * 1000,
        "dry_run__prefill_tokens_per_s": machine.prefill_tokens_per_s,
        "dry_run__kv_cache_tokens": machine.kv_cache_tokens,
    }
    with (
        workplace("routing") as directory,
        deployed(directory, settings, replicas, hosts=hosts) as instance,
    ):
        client = _Client(instance)
        # The last ones may not be connected yet when the first one serves.
        await asyncio.sleep(2)
        try:
            yield client
        finally:
            client.close()


async def _outcome(client: _Client, work: Iterable[Awaitable[None]]) -> Served:
    before = await client.work()
    began = perf_counter()
    await asyncio.gather(*work)
    seconds = perf_counter() - began
    after = await client.work()
    replicas = [work.since(before.get(name, Work())) for name, work in after.items()]
    return Served(client.tokens / seconds, client.ttft_s, client.prefill_s, replicas)


async def converse(
    policy: str, load: Workload, replicas: int, machine: Machine, *, hosts: bool = False
) -> Served:
    """Run conversations as `simulation` does. A character is a token."""
    chance = random.Random(3)

    def text(size: int) -> str:
        return "".join(chance.choices(string.ascii_letters, k=size))

    systems = [text(load.system_tokens) for _ in range(load.systems)]

    async with _running(policy, replicas, machine, hosts=hosts) as client:

        async def talk(number: int) -> None:
            said = systems[number % load.systems]
            for _ in range(load.turns):
                await asyncio.sleep(chance.expovariate(1 / load.pause_s))
                said += text(load.turn_tokens)
                said += await client.ask(said, load.output_tokens)

        return await _outcome(client, [talk(number) for number in range(load.conversations)])


async def saturate(policy: str, replicas: int, clients: int, *, hosts: bool) -> float:
    """Keep engines busy with prompts that share nothing; return tokens per second meanwhile."""
    machine = MACHINE._replace(inter_token_s=_SATURATED_STEP_S)
    async with _running(policy, replicas, machine, hosts=hosts) as client:
        chance = random.Random(5)

        async def repeat(number: int) -> None:
            for turn in itertools.count():
                # Of different lengths, or all would end together.
                await client.ask(f"{number} {turn} " * 20, chance.randrange(50, 250))

        tasks = [asyncio.create_task(repeat(number)) for number in range(clients)]
        await asyncio.sleep(_WARM_UP_S)
        before = client.received
        await asyncio.sleep(_WINDOW_S)
        received = client.received - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return received / _WINDOW_S


def compare(load: Workload, machine: Machine, repetitions: int, *, hosts: bool) -> None:
    """Print what becomes of conversations with both policies, which take turns."""
    print(f"{load.conversations} conversations, {load.systems} system prompts, 4 replicas:")
    ratios, best = [], oracle(load, machine).hits
    for number in range(repetitions):
        found = {}
        for policy in _POLICIES if number % 2 == 0 else _POLICIES[::-1]:
            found[policy] = each = asyncio.run(converse(policy, load, 4, machine, hosts=hosts))
            print(
                f"  {policy:13} TTFT p50 {each.ttft_at(0.5) * 1e3:6.1f} ms, of it"
                f" {median(each.prefill_s) * 1e3:6.1f} in the batch  p99"
                f" {each.ttft_at(0.99) * 1e3:6.1f} ms  prefilled {each.prefilled:9,} of"
                f" {each.prompt_tokens:9,}  busiest {each.imbalance:4.2f} x mean"
                f"  {each.tokens_per_s:7.1f} tokens/s",
                flush=True,
            )
        turns, aware = found["round_robin"], found["prefix_aware"]
        ratios.append(aware.ttft_at(0.5) / turns.ttft_at(0.5))
        part = aware.prefilled / turns.prefilled
        print(
            f"  hits {aware.hits / best:.1%} of the oracle's; of round robin's:"
            f" prefilled {part:.0%}, TTFT p50 {ratios[-1]:.0%}",
            flush=True,
        )
    print(f"  TTFT p50 {median(ratios):.0%} of round robin's, median of {repetitions}")


def saturated(*, hosts: bool) -> None:
    """Print how many times one replica's tokens four generate."""
    clients = int(4 * MACHINE.max_num_seqs * _CLIENTS_PER_PLACE)
    speeds = []
    for replicas in (1, 4):
        speed = asyncio.run(saturate("prefix_aware", replicas, clients, hosts=hosts))
        speeds.append(speed)
        print(f"{replicas} replicas, {clients} clients: {speed:8.1f} tokens/s")
    print(f"  {speeds[1] / speeds[0]:.2f} times one replica's")
