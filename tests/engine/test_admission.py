"""What the scheduler makes of a KV cache and of places: tokens/s, preemptions, first tokens."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from statistics import quantiles

import msgspec
import pytest

from tests.engine.simulated_engine import BEAT_S, Device, SimulatedEngine
from vgate.engine.forecast.limits import Limits
from vgate.engine.request import Request
from vgate.engine.scheduler import BatchScheduler
from vgate.engine.tenants import reserved_seqs
from vgate.wire.parameters import SamplingParams

PROMPT_TOKENS = 176
DEVICE = Device()
# Room for twelve whole answers of 512 tokens.
KV_TOKENS = DEVICE.kv_blocks * DEVICE.block_tokens


class Direct:
    """Hands everything on at once, as vLLM's own server does."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []

    def submit(self, request: Request, _now: float) -> None:
        self._waiting.append(request)

    def admit(self, _now: float) -> list[Request]:
        admitted, self._waiting = self._waiting, []
        return admitted

    def finish(self, request: Request, now: float) -> None:
        """Nothing is kept of it."""

    def preempted(self, total: int) -> None:
        """Nothing is made of it."""


class Client(msgspec.Struct):
    """Sends a request when its last one is answered and `pause_s` are over.

    `lengths` are those of its answers, which the scheduler knows if they are `known`.
    """

    lengths: Iterator[int]
    tenant: str = ""
    known: bool = True
    max_tokens: int | None = None
    prompt_tokens: int = PROMPT_TOKENS
    pause_s: float = 0.0005


class Result(msgspec.Struct):
    """What was measured once it had settled.

    Attributes:
        ttft_s: By tenant, seconds from a request's arrival to its first token.
    """

    tokens_per_s: float
    preempted_share: float
    ttft_s: dict[str, list[float]]

    def ttft_p99_s(self, tenant: str) -> float:
        return quantiles(self.ttft_s[tenant], n=100)[98]


def simulate(scheduler, clients: list[Client], seconds=60.0, settle_s=4.0, device=DEVICE) -> Result:
    """Run clients against a scheduler and a simulated engine."""
    engine, numbers = SimulatedEngine(device), itertools.count()
    arrivals = [(0.0, number, client) for number, client in enumerate(clients)]
    running: dict[str, tuple[Client, Request]] = {}
    lengths: dict[str, int] = {}
    fresh: set[str] = set()
    ttft_s: dict[str, list[float]] = {}
    next_beat = tokens_before = preempted_before = started = 0
    began_s = None
    while engine.now < seconds:
        if began_s is None and engine.now >= settle_s:
            began_s, tokens_before = engine.now, engine.tokens
            started, preempted_before = 0, len(engine.preempted)
            ttft_s.clear()
        while arrivals and arrivals[0][0] <= engine.now:
            arrived, _, client = heapq.heappop(arrivals)
            length = next(client.lengths)
            sampling = SamplingParams(
                max_tokens=client.max_tokens or length, ignore_eos=client.known
            )
            request = Request(str(next(numbers)), [1] * client.prompt_tokens, sampling)
            request.tenant, request.arrived = client.tenant, arrived
            running[request.key], lengths[request.key] = (client, request), length
            scheduler.submit(request, engine.now)
        for request in scheduler.admit(engine.now):
            engine.add(request, lengths.pop(request.key))
            fresh.add(request.key)
            started += 1
        if not engine.has_work:
            engine.now = max(engine.now, arrivals[0][0])
            continue
        finished = engine.step()
        for key in [key for key in fresh if running[key][1].generated_tokens]:
            fresh.remove(key)
            client, request = running[key]
            ttft_s.setdefault(client.tenant, []).append(engine.now - request.arrived)
        for request in finished:
            scheduler.finish(request, engine.now)
            client, _ = running.pop(request.key)
            again = engine.now + client.pause_s
            heapq.heappush(arrivals, (again, next(numbers), client))
        if engine.now >= next_beat:
            next_beat = engine.now + BEAT_S
            scheduler.preempted(engine.preemptions)
    assert began_s is not None
    rate = (engine.tokens - tokens_before) / (engine.now - began_s)
    return Result(rate, (len(engine.preempted) - preempted_before) / max(1, started), ttft_s)


def ours(max_num_seqs=256, kv_tokens=KV_TOKENS, reserved=0) -> BatchScheduler:
    return BatchScheduler(
        Limits(
            max_num_seqs,
            kv_tokens,
            max_queue_size=10_000,
            max_wait_s=0.0,
            kv_block_tokens=DEVICE.block_tokens,
            reserved_seqs=reserved,
        )
    )


def fixed(_seed: int) -> Iterator[int]:
    return itertools.repeat(512)


def mixed(seed: int) -> Iterator[int]:
    """Return lengths of 16 to 1,024, each octave as likely as the others."""
    choose = random.Random(seed)
    while True:
        yield round(16 * 64 ** choose.random())


def natural(seed: int) -> Iterator[int]:
    choose = random.Random(seed)
    while True:
        yield min(1900, int(choose.lognormvariate(5.3, 0.8)) + 1)


def clients(count: int, lengths: Callable[[int], Iterator[int]], **options) -> list[Client]:
    return [Client(lengths(seed), **options) for seed in range(count)]


class TestFullKVCache:
    @pytest.mark.parametrize("count", [12, 18, 24, 48])
    def test_answers_of_one_length(self, count):
        # The best is 18 at once, evenly spread; those that begin together are 12 at most.
        found = simulate(ours(), clients(count, fixed), settle_s=9.0)
        direct = simulate(Direct(), clients(count, fixed), settle_s=9.0)
        assert found.preempted_share < 0.02
        least = 1.02 if count > 18 else 0.94 if count == 18 else 0.999
        assert found.tokens_per_s >= least * direct.tokens_per_s

    @pytest.mark.parametrize(("count", "least"), [(12, 0.999), (24, 1.01), (48, 1.03)])
    def test_answers_of_mixed_known_lengths(self, count, least):
        found, direct = (
            simulate(scheduler, clients(count, mixed)) for scheduler in (ours(), Direct())
        )
        assert found.preempted_share == 0
        assert found.tokens_per_s >= least * direct.tokens_per_s

    def test_lengths_that_are_learned(self):
        options = {"known": False, "max_tokens": 1900}
        found, direct = (
            simulate(scheduler, clients(48, natural, **options), seconds=90)
            for scheduler in (ours(), Direct())
        )
        assert found.preempted_share < 0.04
        assert direct.preempted_share > 0.5
        assert found.tokens_per_s >= 0.8 * direct.tokens_per_s

    def test_more_clients_cost_nothing(self):
        few, many = (simulate(ours(), clients(count, mixed)) for count in (24, 96))
        assert many.tokens_per_s >= 0.95 * few.tokens_per_s

    def test_a_burst_that_fits_starts_at_once(self):
        found = simulate(ours(), clients(11, fixed), seconds=5, settle_s=0.0)
        assert max(found.ttft_s[""][:11]) < 0.2


class TestLightTenants:
    SHORT = itertools.repeat(16)
    SEQS = 32

    def light(self, **options) -> Client:
        return Client(self.SHORT, "light", pause_s=0.2, **options)

    def idle_p99_s(self) -> float:
        return simulate(ours(self.SEQS), [self.light()]).ttft_p99_s("light")

    @property
    def step_s(self) -> float:
        # With another's prompt in it.
        each = DEVICE.per_sequence_s * (self.SEQS + reserved_seqs(self.SEQS))
        return DEVICE.base_s + each + DEVICE.per_prompt_token_s * PROMPT_TOKENS

    @pytest.mark.parametrize("known", [True, False])
    def test_one_beside_all_places_taken_waits_for_a_step(self, known):
        def p99_s(reserved: int) -> float:
            heavy = [
                Client(itertools.repeat(256), "heavy", known=known, max_tokens=256)
                for _ in range(4 * self.SEQS)
            ]
            scheduler = ours(self.SEQS, kv_tokens=10**6, reserved=reserved)
            device = msgspec.structs.replace(DEVICE, kv_blocks=10**5)
            return simulate(scheduler, [self.light(), *heavy], device=device).ttft_p99_s("light")

        assert p99_s(reserved_seqs(self.SEQS)) <= 2 * self.idle_p99_s() + self.step_s
        assert p99_s(0) > 3 * self.idle_p99_s() + self.step_s

    @pytest.mark.parametrize("lengths", [fixed, mixed])
    def test_one_beside_a_full_kv_cache_waits_for_a_step(self, lengths):
        heavy = clients(48, lengths, tenant="heavy")
        found = simulate(ours(reserved=16), [self.light(), *heavy])
        assert found.ttft_p99_s("light") <= 2 * self.idle_p99_s() + self.step_s
        assert found.preempted_share < 0.02

    def test_several_heavy_tenants_are_as_fast_as_one(self):
        # So many short answers that prompts have to start in each step.
        def rate(*tenants: str) -> float:
            sent = [
                Client(itertools.repeat(16), tenant)
                for tenant in tenants
                for _ in range(128 // len(tenants))
            ]
            device = msgspec.structs.replace(DEVICE, kv_blocks=10**5, per_prompt_token_s=3e-6)
            scheduler = ours(64, kv_tokens=10**6, reserved=reserved_seqs(64))
            return simulate(scheduler, sent, seconds=20, device=device).tokens_per_s

        assert rate("a", "b") >= 0.95 * rate("a")

    def test_what_is_kept_for_others_costs_little(self):
        heavy = clients(48, mixed, tenant="heavy")
        alone = simulate(ours(reserved=16), heavy)
        beside = simulate(ours(reserved=16), [self.light(), *heavy])
        assert beside.tokens_per_s >= 0.85 * alone.tokens_per_s

    def test_a_tenant_alone_has_all_places_but_the_reserved_ones(self):
        scheduler = ours(8, kv_tokens=10**6, reserved=2)
        engine, sent = SimulatedEngine(msgspec.structs.replace(DEVICE, kv_blocks=10**5)), []
        for number in range(20):
            request = Request(str(number), [1], SamplingParams(max_tokens=50))
            scheduler.submit(request, 0.0)
        for _ in range(20):
            sent += scheduler.admit(engine.now)
        assert len(sent) == 8
        urgent = Request("other", [1], SamplingParams(max_tokens=50), tenant="other")
        scheduler.submit(urgent, 1.0)
        assert scheduler.admit(1.0) == [urgent]
