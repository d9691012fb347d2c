"""What every limiter promises (`limiter/port.py`), with a clock of the test's."""

import asyncio
import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.frontend.access.limiters import LAPSES_S, LIMITERS, Clock, keep_alive
from vgate.frontend.access.limiter.port import NS, TOKEN_WINDOW_NS, KeyLimits, Usage

NO_LIMITS = KeyLimits()


class Sync:
    """A limiter whose calls wait for their end, each in a loop of its own."""

    def __init__(self, limiter):
        self.limiter = limiter

    def reserve(self, limits, tokens=0, *, key="k", runs=True):
        return SyncGrant(asyncio.run(self.limiter.reserve(key, limits, tokens, runs=runs)))

    def admits(self, limits, tokens=0, *, key="k"):
        return self.reserve(limits, tokens, key=key).decision.allowed

    def usage(self, limits=NO_LIMITS):
        return asyncio.run(self.limiter.usage("k", limits))


class SyncGrant:
    def __init__(self, grant):
        self.grant = grant

    @property
    def decision(self):
        return self.grant.decision

    def reserve(self, tokens):
        return asyncio.run(self.grant.reserve(tokens))

    def settle(self, used_tokens=None):
        asyncio.run(self.grant.settle(used_tokens))

    def abandon(self):
        asyncio.run(self.grant.abandon())


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=LIMITERS)
def make(request, tmp_path, clock):
    """Makes the limiter of a worker."""
    made = []

    def limiter(worker=1):
        made.append(LIMITERS[request.param](tmp_path / "limits", worker, clock))
        return Sync(made[-1])

    yield limiter
    for each in made:
        each.close()


def test_requests_slide(make, clock):
    limiter, limits = make(), KeyLimits(requests=2, window_s=10)
    assert limiter.reserve(limits).decision.requests.remaining == 1
    clock.advance(4)
    second = limiter.reserve(limits).decision
    assert second.requests.remaining == 0
    assert second.requests.reset_at == pytest.approx(clock.wall() + 6)
    refused = limiter.reserve(limits).decision
    assert (refused.allowed, refused.reason) == (False, "requests")
    assert refused.retry_after_s == pytest.approx(6)
    clock.ns += 6 * NS - 1
    assert not limiter.admits(limits)
    clock.ns += 1
    assert limiter.admits(limits)
    assert not limiter.admits(limits)


def test_workers_share_and_keys_do_not(make):
    one, two, limits = make(1), make(2), KeyLimits(requests=1)
    assert one.admits(limits, key="a")
    assert not two.admits(limits, key="a")
    assert two.admits(limits, key="b")


def test_counts_outlive_their_worker(make):
    limits = KeyLimits(requests=1)
    first = make(1)
    assert first.admits(limits)
    first.limiter.close()
    assert not make(1).admits(limits)


def test_a_dead_worker_runs_nothing(make, clock, request):
    dead, other, limits = make(1), make(2), KeyLimits(concurrent=3)
    for worker in (dead, dead, other):
        worker.reserve(limits)
    dead.limiter.close()
    successor = make(1)
    lapse(clock, request.node.callspec.params["make"], [other])
    assert other.usage().concurrent == 1
    assert [successor.admits(limits) for _ in range(3)] == [True, True, False]


def lapse(clock, implementation, living):
    """Wait until a dead worker runs nothing, while others live."""
    if implementation in LAPSES_S:
        for part in (0.6, 0.6):
            clock.advance(part * LAPSES_S[implementation])
            for worker in living:
                keep_alive(worker.limiter)


def test_a_guess_is_no_refusal_of_what_fits(make):
    limiter, limits = make(), KeyLimits(requests=2, concurrent=2)
    assert not limiter.limiter.likely_full("k", limits)
    assert not limiter.limiter.likely_full("k", KeyLimits(tokens_per_minute=1))


def test_tokens_are_reserved_then_settled(make, clock):
    limiter, limits = make(), KeyLimits(tokens_per_minute=100)
    first = limiter.reserve(limits, 80)
    assert first.decision.tokens.remaining == 20
    refused = limiter.reserve(limits, 30).decision
    assert (refused.reason, refused.never) == ("tokens", False)
    assert refused.retry_after_s == pytest.approx(60)
    first.settle(50)
    first.settle(0)
    assert limiter.usage().tokens == 50
    assert limiter.admits(limits, 30)
    clock.advance(60)
    assert limiter.usage().tokens == 0


def test_more_tokens_may_have_been_used_than_reserved(make):
    limiter, limits = make(), KeyLimits(tokens_per_minute=100)
    limiter.reserve(limits, 10).settle(120)
    assert limiter.usage().tokens == 120
    assert limiter.admits(limits, 0)
    assert not limiter.admits(limits, 1)


def test_settling_after_the_window_changes_nothing(make, clock):
    limiter, limits = make(), KeyLimits(tokens_per_minute=100)
    old = limiter.reserve(limits, 80)
    clock.advance(61)
    limiter.reserve(limits, 70)
    old.settle(10)
    assert limiter.usage().tokens == 70


def test_a_request_may_be_counted_before_its_tokens(make):
    limiter, limits = make(), KeyLimits(requests=3, tokens_per_minute=100, concurrent=3)
    grant = limiter.reserve(limits)
    assert limiter.usage() == Usage(1, 0, 1)
    assert grant.reserve(60).tokens.remaining == 40
    assert grant.reserve(30).tokens.remaining == 40  # only the first call counts
    assert limiter.usage() == Usage(1, 60, 1)
    grant.settle()
    assert limiter.usage() == Usage(1, 60, 0)


def test_what_does_not_run_is_only_counted(make):
    limiter, limits = make(), KeyLimits(requests=2, concurrent=1)
    grant = limiter.reserve(limits, runs=False)
    assert limiter.usage() == Usage(1, 0, 0)
    grant.settle()
    assert limiter.usage() == Usage(1, 0, 0)


def test_a_cost_above_the_limit_never_passes(make):
    refused = make().reserve(KeyLimits(tokens_per_minute=100), 101).decision
    assert refused.never
    assert refused.retry_after_s is None


def test_retry_after_waits_for_enough_tokens(make, clock):
    limiter, limits = make(), KeyLimits(tokens_per_minute=100)
    for _ in range(5):
        limiter.reserve(limits, 20)
        clock.advance(5)
    refused = limiter.reserve(limits, 50).decision
    assert refused.retry_after_s == pytest.approx(45)  # three of them, the last stamped at 10
    clock.advance(45)
    assert limiter.admits(limits, 50)


def test_tokens_that_are_refused_abandon_the_request(make):
    limiter = make()
    limits = KeyLimits(requests=2, tokens_per_minute=100, concurrent=2)
    grant = limiter.reserve(limits)
    assert limiter.usage().requests == 1
    refused = grant.reserve(200)
    assert (refused.reason, refused.never, refused.requests.remaining) == ("tokens", True, 2)
    assert limiter.usage() == Usage(0, 0, 0)
    grant.settle()
    grant.abandon()
    assert limiter.usage() == Usage(0, 0, 0)


def test_nothing_is_taken_if_one_limit_refuses(make):
    limiter = make()
    limits = KeyLimits(requests=5, tokens_per_minute=100, concurrent=1)
    assert limiter.admits(limits, 10)
    refused = limiter.reserve(limits, 10)
    assert refused.decision.reason == "concurrent"
    assert limiter.reserve(limits, 95).decision.reason == "tokens"
    refused.settle(10)
    refused.abandon()
    assert limiter.usage() == Usage(1, 10, 1)


@pytest.mark.parametrize("left", [0, -5])  # a limit may be lowered
def test_without_tokens_left_what_uses_none_is_admitted(make, left):
    limiter = make()
    limiter.reserve(KeyLimits(tokens_per_minute=10), 10)
    grant = limiter.reserve(KeyLimits(tokens_per_minute=10 + left))
    assert (grant.decision.allowed, grant.decision.tokens.remaining) == (True, 0)
    assert grant.reserve(1).reason == "tokens"


def test_abandoning_leaves_nothing(make):
    limiter = make()
    limits = KeyLimits(requests=2, tokens_per_minute=100, concurrent=2)
    kept, grant = limiter.reserve(limits, 10), limiter.reserve(limits, 20)
    for _ in range(2):
        grant.abandon()
        assert limiter.usage() == Usage(1, 10, 1)
    grant.settle(7)
    assert limiter.usage() == Usage(1, 10, 1)
    kept.settle(9)
    kept.abandon()
    assert limiter.usage() == Usage(1, 9, 0)


def test_settling_twice_ends_one_request(make):
    limiter, limits = make(), KeyLimits(concurrent=2)
    first, _second = (limiter.reserve(limits) for _ in range(2))
    assert limiter.reserve(limits).decision.reason == "concurrent"
    first.settle()
    first.settle()
    assert limiter.usage().concurrent == 1


def test_limits_change_under_way(make, clock):
    limiter = make()
    for _ in range(5):
        assert limiter.admits(KeyLimits(requests=5))
        clock.advance(1)
    lower = limiter.reserve(KeyLimits(requests=2)).decision
    assert (lower.allowed, lower.requests.remaining) == (False, 0)
    assert lower.retry_after_s == pytest.approx(58)  # four have to leave
    higher = KeyLimits(requests=300)
    assert sum(limiter.admits(higher) for _ in range(400)) == 295
    assert limiter.usage().requests == 300


def test_concurrent_calls_never_pass_a_limit(make):
    one, two = make(1).limiter, make(2).limiter
    limits = KeyLimits(requests=30, tokens_per_minute=1000, concurrent=20)

    async def ask(limiter):
        grant = await limiter.reserve("k", limits, 10)
        return grant.decision.allowed

    async def all_at_once():
        return await asyncio.gather(*(ask(limiter) for limiter in [one, two] * 50))

    assert sum(asyncio.run(all_at_once())) == 20


class AgainstModel(RuleBasedStateMachine):
    """Any sequence of calls by three workers, under changing limits, next to plain lists."""

    implementation: str

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.workers = [self.start(n) for n in range(3)]
        self.limits = KeyLimits(requests=3, window_s=10, tokens_per_minute=100, concurrent=3)
        self.requests, self.tokens = [], {}  # stamps; number -> [stamp, amount]
        self.running, self.grants = {}, {}  # those that are neither settled nor abandoned
        self.numbers = itertools.count()

    def start(self, worker):
        return Sync(LIMITERS[self.implementation](self.folder / "limits", worker, self.clock))

    def teardown(self):
        for worker in self.workers:
            worker.limiter.close()
        shutil.rmtree(self.folder)

    def in_window(self):
        now, window = self.clock.ns, self.limits.window_ns
        return [stamp for stamp in self.requests if stamp > now - window]

    def tokens_in_window(self):
        until = self.clock.ns - TOKEN_WINDOW_NS
        return sum(n for stamp, n in self.tokens.values() if stamp > until)

    @rule(worker=st.integers(0, 2), cost=st.integers(0, 120), runs=st.booleans())
    def admit(self, worker, cost, runs):
        fits = {
            "requests": len(self.in_window()) < self.limits.requests,
            "tokens": not cost or self.tokens_in_window() + cost <= self.limits.tokens_per_minute,
            "concurrent": len(self.running) < self.limits.concurrent,
        }
        grant = self.workers[worker].reserve(self.limits, cost, runs=runs)
        assert grant.decision.allowed == all(fits.values())
        assert grant.decision.reason == next((name for name, fit in fits.items() if not fit), None)
        if not grant.decision.allowed:
            return
        number = next(self.numbers)
        self.requests.append(self.clock.ns)
        if runs:
            self.running[number] = worker
        self.grants[number] = (worker, grant, self.clock.ns)
        if cost:
            self.tokens[number] = [self.clock.ns, cost]

    def pick(self, data):
        if not self.grants:
            return None
        number = data.draw(st.sampled_from(sorted(self.grants)))
        return number, *self.grants[number]

    @rule(data=st.data(), cost=st.integers(1, 120))
    def reserve(self, data, cost):
        if not (picked := self.pick(data)) or picked[0] in self.tokens:
            return
        number, _worker, grant, stamp = picked
        fits = self.tokens_in_window() + cost <= self.limits.tokens_per_minute
        assert grant.reserve(cost).allowed == fits
        if fits:
            self.tokens[number] = [self.clock.ns, cost]
        else:
            self.undo(number, stamp)

    @rule(data=st.data(), times=st.integers(1, 2))
    def abandon(self, data, times):
        if picked := self.pick(data):
            number, _worker, grant, stamp = picked
            for _ in range(times):
                grant.abandon()
            grant.settle(1)
            self.undo(number, stamp)

    def undo(self, number, stamp):
        self.requests.remove(stamp)
        self.running.pop(number, None)
        self.tokens.pop(number, None)
        del self.grants[number]

    @rule(data=st.data(), part=st.none() | st.floats(0, 2))
    def settle(self, data, part):
        if not (picked := self.pick(data)):
            return
        number, _worker, grant, _stamp = picked
        used = None
        if part is not None and number in self.tokens:
            entry = self.tokens[number]
            entry[1] = used = int(entry[1] * part)
        grant.settle(used)
        grant.abandon()
        self.running.pop(number, None)
        del self.grants[number]

    @rule(worker=st.integers(0, 2))
    def die_and_return(self, worker):
        self.workers[worker].limiter.close()
        self.workers[worker] = self.start(worker)
        living = [each for number, each in enumerate(self.workers) if number != worker]
        lapse(self.clock, self.implementation, living)
        self.running = {n: w for n, w in self.running.items() if w != worker}
        self.grants = {n: g for n, g in self.grants.items() if g[0] != worker}

    @rule(nanoseconds=st.integers(0, 3 * NS) | st.sampled_from([10 * NS, 60 * NS, 1]))
    def wait(self, nanoseconds):
        while nanoseconds > 0:
            self.clock.ns += min(nanoseconds, 3 * NS)
            nanoseconds -= 3 * NS
            for worker in self.workers:
                keep_alive(worker.limiter)

    @rule(requests=st.integers(1, 6), concurrent=st.integers(1, 5))
    def reload(self, requests, concurrent):
        self.limits = KeyLimits(
            requests=requests, window_s=10, tokens_per_minute=100, concurrent=concurrent
        )

    @invariant()
    def usage_is_the_model(self):
        usage = self.workers[0].usage(self.limits)
        assert usage.requests == len(self.in_window())
        assert usage.tokens == self.tokens_in_window()
        assert usage.concurrent == len(self.running)


@pytest.mark.parametrize("implementation", LIMITERS)
def test_any_sequence_of_calls_is_the_model(implementation):
    machine = type("Machine", (AgainstModel,), {"implementation": implementation})
    machine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
    machine.TestCase().runTest()
