"""The simulation of many replicas keeps its books."""

from statistics import mean

import pytest

from bench.simulate.replica import BLOCK_TOKENS, NO_SEED, Device, Replica, Request
from bench.simulate.trace import SHARED_TOKENS, Trace, Turn, following
from bench.simulate.world import Plan, World
from vgate.wire.kv_blocks import block_keys

# What depends on this machine.
_TIMES = ("decision_us", "report_us")


class Stopwatch:
    """A replica alone, and the times of its requests' first tokens and ends."""

    def __init__(self, device: Device = Device()) -> None:  # noqa: B008 - immutable
        self.now = 0.0
        self.events = []
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.stored: set[int] = set()
        self.replica = Replica(
            device,
            lambda seconds, event: self.events.append((self.now + seconds, event)),
            self.report,
            lambda request: self.first.update({request.turn.seed: self.now}),
            lambda request: self.last.update({request.turn.seed: self.now}),
        )

    def report(self, stored: list[int], removed: list[int]) -> None:
        assert self.stored.issuperset(removed)
        assert self.stored.isdisjoint(stored)
        self.stored = self.stored - {*removed} | {*stored}

    def submit(self, number: int, prompt: bytes, output: int) -> None:
        keys = block_keys(prompt, BLOCK_TOKENS, NO_SEED)
        self.replica.submit(Request(Turn(prompt, output, number), self.now, keys, None, output))

    def run(self) -> None:
        while self.events:
            self.events.sort(key=lambda each: each[0])
            self.now, event = self.events.pop(0)
            event()


DEVICE = Device(base_s=0.01, sequence_s=0.001, prompt_token_s=1e-5, kv_cache_tokens=10_000)


def test_a_replica_steps_as_its_device_does():
    alone = Stopwatch(DEVICE)
    alone.submit(1, bytes(4 * 3000), 5)
    alone.run()
    # Two steps for the prompt, and four with one sequence.
    assert alone.first[1] == pytest.approx(2 * 0.01 + 3000e-5)
    assert alone.last[1] - alone.first[1] == pytest.approx(4 * 0.011)
    assert alone.replica.generated == 5
    again = alone.now
    alone.submit(2, bytes(4 * 3000), 1)
    alone.run()
    found = (3000 + 4) // BLOCK_TOKENS * BLOCK_TOKENS
    assert found > 2900
    assert alone.first[2] - again == pytest.approx(0.01 + (3000 - 46 * BLOCK_TOKENS) * 1e-5)


def test_what_a_replica_reports_is_what_it_has():
    alone, trace = Stopwatch(DEVICE), Trace(1)
    for number in range(20):
        alone.submit(number, trace.first().prompt[: 4 * 3000], 20)
    alone.run()
    assert set(alone.replica._blocks) == alone.stored
    assert 5000 < len(alone.stored) * BLOCK_TOKENS <= 10_000
    assert alone.first.keys() == alone.last.keys() == {*range(20)}


def test_requests_are_as_in_the_trace():
    trace = Trace(3)
    turns = [trace.first() for _ in range(1500)]
    assert mean(turn.tokens for turn in turns) == pytest.approx(10_640, rel=0.15)
    assert mean(turn.output for turn in turns) == pytest.approx(352, rel=0.1)
    assert len({turn.prompt[: 4 * SHARED_TOKENS] for turn in turns}) == 1
    later = [turn for each in turns if (turn := following(each)) is not None]
    assert len(later) / len(turns) == pytest.approx(0.36, abs=0.05)
    assert following(turns[0]) == following(turns[0])


def test_the_same_plan_has_the_same_outcome():
    plan = Plan(3, 2, seconds=20)
    one, other = (World(plan).run()._asdict() for _ in range(2))
    for name in _TIMES:
        del one[name], other[name]
    assert one == other


def test_requests_of_a_replica_that_dies_go_on_in_another():
    world = World(Plan(6, 2, rate=0.5, seconds=60, kill_every_s=10.0))
    outcome = world.run()
    calm = World(Plan(6, 2, rate=0.5, seconds=60)).run()
    assert outcome.moved > 3
    assert outcome.tokens_per_s == pytest.approx(calm.tokens_per_s, rel=0.15)
    for gateway in world.gateways:
        assert len(gateway.up) < 6
        assert sum(replica.sequences for replica in gateway.replicas) < 40


def test_prefixes_are_found_where_they_are():
    big = Device(kv_cache_tokens=4_000_000)
    hits = {
        policy: World(Plan(4, 2, policy, rate=1, seconds=150, device=big)).run().hits
        for policy in ("prefix_aware", "round_robin")
    }
    assert hits["prefix_aware"] > 1.4 * hits["round_robin"]
