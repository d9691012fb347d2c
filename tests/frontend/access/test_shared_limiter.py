"""What only the limiter that gateways share has: leases, budgets, and counts that can be lost."""

import asyncio
import time
from importlib.util import find_spec

import msgspec
import pytest

from tests.frontend.access.limiters import Clock
from tests.frontend.access.shared_limiters import LEASE_S, shared
from tests.state_server import find_server
from vgate.frontend.access.budget import Budget
from vgate.frontend.access.limiter import KeyLimits
from vgate.frontend.access.limiter.port import LimiterAwayError
from vgate.frontend.shared_state.server import StateAwayError

pytestmark = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)

BUDGET = KeyLimits(budget=Budget(100, "month"))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Makes the limiter of a gateway."""
    made = []

    def limiter(number=1, **settings):
        made.append(shared(tmp_path, number, clock, **settings))
        return made[-1]

    yield limiter
    for each in made:
        each.close()


def reserve(limiter, limits, tokens=0, *, runs=True):
    return asyncio.run(limiter.reserve("k", limits, tokens, runs=runs))


def usage(limiter, limits):
    return asyncio.run(limiter.usage("k", limits))


def settle(grant, used=None):
    asyncio.run(grant.settle(used))


def keys_of(limiter):
    return sorted(limiter.link.client.scan_iter(f"{limiter.settings.prefix}:*"))


def test_refused_requests_keep_no_window_full(make, clock):
    limiter, limits = make(), KeyLimits(requests=2, window_s=10)
    for _ in range(2):
        assert reserve(limiter, limits).decision.allowed
    for _ in range(19):
        clock.advance(0.5)
        assert not reserve(limiter, limits).decision.allowed
    clock.advance(0.5)
    assert reserve(limiter, limits).decision.allowed


def test_every_key_ends_by_itself_and_is_in_one_slot(make):
    from redis.crc import key_slot

    limiter = make()
    limits = KeyLimits(requests=5, tokens_per_minute=100, concurrent=5, budget=Budget(100, "month"))
    limiter._budgets.used = 1
    reserve(limiter, limits, 10)
    names = keys_of(limiter)
    assert len(names) == 7
    assert all(limiter.link.client.pttl(name) > 0 for name in names)
    assert len({key_slot(name) for name in names}) == 1


@pytest.mark.parametrize("how", ["settle", "abandon"])
def test_an_end_that_is_told_again_changes_nothing(make, how):
    limiter = make()
    limits = KeyLimits(requests=5, tokens_per_minute=500, concurrent=5, budget=Budget(500, "day"))
    grants = [reserve(limiter, limits, 50) for _ in range(2)]
    limiter._budgets.used = 30
    if how == "settle":
        settle(grants[0], 30)
    else:
        asyncio.run(grants[0].abandon())
    link = limiter.link
    told = usage(limiter, limits)
    for _ in range(3):
        asyncio.run(link.call(*next(each for each in link.calls if each[1].op == "settle")))
    assert usage(limiter, limits) == told
    assert told.concurrent == 1
    assert told.budget == 30 + 50


def test_what_a_dead_gateway_had_reserved_comes_back(make, clock):
    dead, other = make(1), make(2)
    dead._budgets.used = 20
    assert reserve(dead, BUDGET, 70).decision.allowed
    refused = reserve(other, BUDGET, 20).decision
    assert (refused.reason, refused.budget_left) == ("budget", 10)
    clock.advance(LEASE_S + 0.001)
    # What it had used by its ledger stays used.
    assert reserve(other, BUDGET, 80).decision.allowed
    assert reserve(other, BUDGET, 1).decision.reason == "budget"


def test_a_living_gateway_keeps_what_it_reserved(make, clock):
    alive, other = make(1), make(2)
    grant = reserve(alive, BUDGET, 70)
    for _ in range(5):
        clock.advance(0.9 * LEASE_S)
        assert reserve(other, BUDGET, 40).decision.reason == "budget"
        alive.renew()
    alive._budgets.used = 10
    settle(grant, 10)
    alive.renew()
    assert reserve(other, BUDGET, 90).decision.allowed


def test_use_is_told_as_a_total_by_each_gateway(make):
    one, two = make(1), make(2)
    one._budgets.used, two._budgets.used = 30, 40
    for _ in range(3):
        one.tell_all()
        assert usage(two, BUDGET).budget in (40, 70)
        assert usage(one, BUDGET).budget == 70
    # A worker of the same gateway that is behind takes nothing back.
    one._budgets.used = 10
    assert usage(one, BUDGET).budget == 70


def test_tokens_that_a_budget_refuses_leave_nothing(make):
    limiter = make()
    limits = KeyLimits(requests=5, tokens_per_minute=500, budget=Budget(100, "month"))
    grant = reserve(limiter, limits)
    refused = asyncio.run(grant.reserve(200))
    assert (refused.reason, refused.budget_left) == ("budget", 100)
    used = usage(limiter, limits)
    assert (used.requests, used.tokens, used.concurrent, used.budget) == (0, 0, 0, 0)


def lose_all(limiter):
    client = limiter.link.client
    client.delete(*keys_of(limiter))


def test_a_server_without_its_data_admits_nobody_twice(make, clock):
    one, two = make(1, on_failure="refuse"), make(2, on_failure="refuse")
    limits = KeyLimits(requests=3, window_s=20)
    for limiter in (one, two, one):
        assert reserve(limiter, limits).decision.allowed
    lose_all(one)
    clock.advance(1)
    for limiter in (two, one):
        with pytest.raises(LimiterAwayError) as away:
            reserve(limiter, limits)
        assert away.value.retry_after_s == pytest.approx(20, abs=2)
    clock.advance(20)
    assert [reserve(one, limits).decision.allowed for _ in range(4)] == [True, True, True, False]


def test_a_gateway_that_knows_nothing_learns_that_counts_were_lost(make, clock):
    knows, new = make(1, on_failure="refuse"), make(2, on_failure="refuse")
    limits = KeyLimits(requests=3)
    for _ in range(3):
        reserve(knows, limits)
    lose_all(knows)
    clock.advance(1)
    knows.tell_all()
    with pytest.raises(LimiterAwayError):
        reserve(new, limits)


def test_nobody_is_admitted_before_all_gateways_have_told_what_they_know(make):
    limiter, limits = make(on_failure="refuse"), KeyLimits(requests=3)
    limiter.link.settled_at = time.monotonic() + 5
    with pytest.raises(LimiterAwayError) as away:
        reserve(limiter, limits)
    assert 0 < away.value.retry_after_s <= 5
    limiter.link.settled_at = time.monotonic()
    assert reserve(limiter, limits).decision.allowed


def test_older_data_are_lost_data(make, clock):
    limiter, limits = make(1, on_failure="refuse"), KeyLimits(requests=3)
    reserve(limiter, limits)
    old = {name: limiter.link.client.dump(name) for name in keys_of(limiter)}
    clock.advance(1)
    reserve(limiter, limits)
    lose_all(limiter)
    for name, dump in old.items():
        limiter.link.client.restore(name, 0, dump)
    with pytest.raises(LimiterAwayError):
        reserve(limiter, limits)


def test_where_local_limits_may_stand_in_lost_counts_begin_anew(make):
    limiter, limits = make(), KeyLimits(requests=1)
    assert reserve(limiter, limits).decision.allowed
    lose_all(limiter)
    assert reserve(limiter, limits).decision.allowed


def test_an_idle_key_has_lost_nothing(make, clock):
    limiter, limits = make(1, on_failure="refuse"), KeyLimits(requests=1, window_s=20)
    assert reserve(limiter, limits).decision.allowed
    clock.advance(21)
    lose_all(limiter)  # as its keys do by themselves
    assert reserve(limiter, limits).decision.allowed


def test_a_stream_that_is_taken_up_makes_no_key_forget_its_window(make, clock):
    """It counts towards other limits only, and those don't reach as far back."""
    knows, new = make(1, on_failure="refuse"), make(2, on_failure="refuse")
    limits = KeyLimits(requests=5, window_s=60, concurrent=5)
    settle(reserve(knows, limits))
    clock.advance(1)
    settle(reserve(knows, msgspec.structs.replace(limits, requests=None)))
    (meta,) = (name for name in keys_of(knows) if name.endswith(b":meta"))
    assert knows.link.client.pttl(meta) > 55_000
    lose_all(knows)
    clock.advance(1)
    knows.tell_all()
    clock.advance(LEASE_S + 5)
    with pytest.raises(LimiterAwayError):
        reserve(new, limits)


def test_what_runs_is_told_to_a_server_that_has_lost_it(make):
    limiter, limits = make(), KeyLimits(concurrent=2, budget=Budget(100, "month"))
    limiter._budgets.used = 10
    for _ in range(2):
        reserve(limiter, limits, 20)
    lose_all(limiter)
    limiter.tell_all()
    assert reserve(limiter, limits).decision.reason == "concurrent"
    assert usage(limiter, limits).budget == 50


def test_a_clock_that_is_set_back_keeps_the_order(make, clock):
    limiter, limits = make(), KeyLimits(requests=2, window_s=10)
    reserve(limiter, limits)
    clock.advance(-5)
    assert reserve(limiter, limits).decision.requests.remaining == 0
    clock.advance(14.9)
    assert not reserve(limiter, limits).decision.allowed
    clock.advance(0.2)
    assert [reserve(limiter, limits).decision.allowed for _ in range(3)] == [True, True, False]


def test_a_call_after_its_deadline_does_nothing(make, clock):
    limiter, limits = make(), KeyLimits(requests=2)
    keys, call = limiter.made("admit", "k", limits)
    call.id, call.cost, call.tokens, call.deadline = "late", 1, 0, clock() - 1
    assert asyncio.run(limiter.link.call(keys, call)).reason == "late"
    assert usage(limiter, limits).requests == 0


class Fails:
    """A link that fails after or before the server has done what it was asked."""

    away = None
    settled_at = 0.0

    def __init__(self, link, *, unsure):
        self.link, self.unsure, self.client = link, unsure, link.client

    async def call(self, keys, call):
        if self.unsure:
            await self.link.call(keys, call)
        raise StateAwayError("gone", unsure=self.unsure)

    def post(self, keys, call, *, lasting=True):
        self.link.post(keys, call)

    def close(self):
        self.link.close()


@pytest.mark.parametrize("unsure", [True, False])
def test_a_request_whose_answer_was_lost_holds_nothing(make, unsure):
    limiter, limits = make(1, on_failure="refuse"), KeyLimits(requests=2, concurrent=2)
    link = limiter.link
    limiter.link = Fails(link, unsure=unsure)
    with pytest.raises(LimiterAwayError):
        reserve(limiter, limits, 10)
    limiter.link = link
    used = usage(limiter, limits)
    assert (used.requests, used.concurrent) == (0, 0)


def test_tokens_are_held_locally_if_the_server_is_lost_in_between(make):
    limiter, limits = make(), KeyLimits(requests=2, tokens_per_minute=100)
    grant = reserve(limiter, limits)
    link = limiter.link
    limiter.link = Fails(link, unsure=False)
    assert asyncio.run(grant.reserve(60)).tokens.remaining == 40
    assert asyncio.run(limiter.local.usage("k", limits)).tokens == 60
    limiter.link = link
    settle(grant, 20)
    assert asyncio.run(limiter.local.usage("k", limits)).tokens == 20
    assert usage(limiter, limits).concurrent == 0
