"""Which requests enter the batch and when, on a clock that only the tests move."""

import itertools
import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.engine.fakes import held_by
from vgate.engine import tenants
from vgate.engine.forecast.kv_cache import peak
from vgate.engine.forecast.limits import Limits
from vgate.engine.request import Request, RequestError
from vgate.engine.scheduler import BURST_GAP_S, BatchScheduler
from vgate.engine.tenants import reserved_seqs
from vgate.wire.parameters import SamplingParams

numbers = itertools.count(1)


def make_scheduler(
    max_num_seqs=4, kv_cache_tokens=100_000, max_queue_size=1000, max_wait_s=0.05, **limits
) -> BatchScheduler:
    limits = Limits(max_num_seqs, kv_cache_tokens, max_queue_size, max_wait_s, **limits)
    return BatchScheduler(limits)


def make_request(
    prompt_tokens=10, max_tokens=10, tenant="", weight=1.0, deadline=math.inf, priority=0
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens)
    request = Request(str(next(numbers)), [1] * prompt_tokens, sampling)
    request.tenant, request.weight, request.queue_deadline = tenant, weight, deadline
    request.priority = priority
    return request


def submit(scheduler, *requests, now=0.0):
    """Submit requests too far apart from each other to be a burst."""
    for number, request in enumerate(requests):
        scheduler.submit(request, now + number * 2 * BURST_GAP_S)
    return now + len(requests) * 2 * BURST_GAP_S


def expired(scheduler, now) -> list[Request]:
    """Return the requests that have waited too long, and see that each is told when to retry."""
    late = scheduler.expire(now)
    assert all(e.code == "queue_timeout" and e.retry_after_s >= 1 for _, e in late)
    return [request for request, _ in late]


def finish(scheduler, request, now, tokens=None):
    request.generated_tokens = request.max_tokens if tokens is None else tokens
    scheduler.finish(request, now)


def known(prompt_tokens, max_tokens, **options) -> Request:
    """Return a request that will have all its tokens."""
    request = make_request(prompt_tokens, max_tokens, **options)
    request.sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return request


def starts_of(shapes: list[tuple[int, int]], *, backfill: bool) -> list[int]:
    """Return in which step each of these prompts and lengths starts, all sent at once."""
    scheduler = make_scheduler(100, kv_cache_tokens=150, max_wait_s=0.0)
    if not backfill:
        scheduler._backfill = lambda *_: []
    requests = [known(*shape) for shape in shapes]
    for request in requests:
        scheduler.submit(request, 0.0)
    starts: dict[str, int] = {}
    for step in range(sum(length for _, length in shapes) + 100):
        for request in scheduler.admit(0.0):
            starts[request.key] = step
        for request in list(scheduler.running.values()):
            request.generated_tokens += 1
            if request.generated_tokens == request.max_tokens:
                scheduler.finish(request, 0.0)
    return [starts[request.key] for request in requests]


class TestBackfill:
    def blocked(self, *behind: Request) -> list[Request]:
        """Return which of others start behind one that waits for another to end.

        Of 150, 100 will be in use for 20 steps.
        """
        scheduler = make_scheduler(100, kv_cache_tokens=150)
        submit(scheduler, known(80, 20), known(50, 50), *behind)
        return scheduler.admit(1.0)[1:]

    def test_what_ends_in_time_passes_the_first_one(self):
        assert self.blocked(short := known(20, 10)) == [short]

    def test_what_would_delay_the_first_one_waits(self):
        # It fits now, but would still hold 45 and more when the first one could start.
        assert self.blocked(known(25, 100)) == []

    def test_it_may_stay_beside_the_first_one_if_both_fit(self):
        assert self.blocked(thin := known(2, 40)) == [thin]

    def test_a_less_urgent_one_waits(self):
        assert self.blocked(known(20, 10, priority=1)) == []

    def test_keys_pass_in_fair_order(self):
        others = [known(20, 8, tenant=name) for name in "aab"]
        assert [other.tenant for other in self.blocked(*others)] == ["a", "b"]

    def test_nothing_passes_that_arrived_after_many_others(self):
        scheduler = make_scheduler(100, kv_cache_tokens=150)
        running, first = known(80, 20), known(50, 50)
        submit(scheduler, running, first)
        scheduler.admit(1.0)
        for passed in range(200):
            submit(scheduler, short := known(20, 2), now=2.0 + passed)
            if scheduler.admit(3.0 + passed) != [short]:
                break
            finish(scheduler, short, 3.0 + passed)
        assert passed == tenants._MOST_PASSING

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=3, max_size=14))
    def test_the_first_that_waits_starts_no_later_and_all_start(self, shapes):
        without, starts = (starts_of(shapes, backfill=backfill) for backfill in (False, True))
        first = next((n for n, step in enumerate(without) if step), None)
        if first is not None:
            assert starts[first] <= without[first]


class TestBurstsBesideRunningRequests:
    def busy(self, **sizes) -> tuple[BatchScheduler, Request]:
        scheduler, running = make_scheduler(max_num_seqs=200, **sizes), make_request()
        now = submit(scheduler, running)
        assert scheduler.admit(now) == [running]
        return scheduler, running

    @pytest.mark.parametrize(("prompt_tokens", "a_turn"), [(10, 16), (4000, 3), (30_000, 1)])
    def test_a_burst_starts_over_several_turns(self, prompt_tokens, a_turn):
        scheduler, _ = self.busy(kv_cache_tokens=10_000_000)
        burst = [make_request(prompt_tokens) for _ in range(40)]
        now = submit(scheduler, *burst)
        turns = []
        while scheduler.waiting:
            turns.append(scheduler.admit(now))
        assert {len(turn) for turn in turns[:-1]} == {a_turn}
        assert [request for turn in turns for request in turn] == burst

    def test_tenants_take_turns_in_each_part_of_a_burst(self):
        scheduler, _ = self.busy()
        burst = [make_request(tenant=tenant) for tenant in "a" * 20 + "b" * 20]
        now = submit(scheduler, *burst)
        parts = [scheduler.admit(now) for _ in range(8)]
        assert all(parts)
        first = [request.tenant for part in parts for request in part][:16]
        assert Counter(first) == {"a": 8, "b": 8}

    def test_all_start_at_once_when_nothing_runs(self):
        scheduler, running = self.busy(kv_cache_tokens=10_000_000)
        finish(scheduler, running, 1.0)
        burst = [make_request(4000) for _ in range(40)]
        now = submit(scheduler, *burst)
        assert scheduler.admit(now) == burst

    def test_embeddings_start_at_once(self):
        scheduler, _ = self.busy()
        burst = [make_request() for _ in range(40)]
        for request in burst:
            request.sampling = None
        now = submit(scheduler, *burst)
        assert scheduler.admit(now) == burst


class TestQueue:
    def test_first_come_first_served(self):
        scheduler = make_scheduler(max_num_seqs=3)
        requests = [make_request() for _ in range(5)]
        now = submit(scheduler, *requests)
        assert scheduler.admit(now) == requests[:3]
        assert (len(scheduler.running), scheduler.waiting) == (3, 2)
        assert scheduler.admit(now) == []
        finish(scheduler, requests[1], now)
        assert scheduler.admit(now) == [requests[3]]

    def test_a_full_queue_rejects(self):
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=2)
        requests = [make_request() for _ in range(4)]
        scheduler.submit(requests[0], 0.0)
        scheduler.admit(0.0)
        scheduler.submit(requests[1], 1.0)
        scheduler.submit(requests[2], 1.0)
        with pytest.raises(RequestError) as caught:
            scheduler.submit(requests[3], 1.0)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after_s == 1.0
        assert requests[3] not in held_by(scheduler)
        # Nothing of the refused one stays behind.
        finish(scheduler, requests[0], 2.0)
        assert scheduler.admit(2.0) == [requests[1]]
        scheduler.submit(requests[3], 3.0)

    def test_long_prompts_fill_it_sooner(self, monkeypatch):
        """They take the machine's memory while they wait."""
        monkeypatch.setattr(tenants, "_MOST_QUEUED_TOKENS", 1000)
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=20)
        running, *others = [make_request(400) for _ in range(4)]
        scheduler.submit(running, 0.0)
        scheduler.admit(0.0)
        submit(scheduler, *others[:2], now=1.0)
        with pytest.raises(RequestError, match="1,000 prompt tokens") as caught:
            scheduler.submit(others[2], 2.0)
        assert caught.value.code == "overloaded"
        # Short ones have room, and so has any where nothing waits.
        scheduler.submit(make_request(50), 2.0)
        others[2].resumed = True
        scheduler.submit(others[2], 2.0)
        alone = make_scheduler(max_num_seqs=1)
        alone.submit(make_request(5000), 0.0)

    def test_a_tenant_leaves_as_much_of_the_queue_as_it_takes(self, monkeypatch):
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=8)
        submit(scheduler, *(make_request(tenant="heavy") for _ in range(4)))
        with pytest.raises(RequestError, match="4 requests of this API key"):
            scheduler.submit(make_request(tenant="heavy"), 1.0)
        # So the next ones have room: the second key for two, the third for one.
        submit(scheduler, *(make_request(tenant="light") for _ in range(2)), now=1.0)
        with pytest.raises(RequestError, match="2 requests of this API key"):
            scheduler.submit(make_request(tenant="light"), 1.0)
        scheduler.submit(make_request(tenant="third"), 1.0)

        monkeypatch.setattr(tenants, "_MOST_QUEUED_TOKENS", 1000)
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=20)
        scheduler.submit(make_request(400, tenant="heavy"), 0.0)
        with pytest.raises(RequestError, match="400 prompt tokens of this API key"):
            scheduler.submit(make_request(400, tenant="heavy"), 1.0)
        scheduler.submit(make_request(400, tenant="light"), 1.0)

    def test_retry_after_follows_the_drain_rate(self):
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=60)
        now = 0.0
        for _ in range(200):  # two a second
            request = make_request()
            scheduler.submit(request, now)
            assert scheduler.admit(now) == [request]
            now += 0.5
            finish(scheduler, request, now)
        for _ in range(60):
            scheduler.submit(make_request(), now)
        with pytest.raises(RequestError) as caught:
            scheduler.submit(make_request(), now)
        assert caught.value.retry_after_s == pytest.approx(30, rel=0.1)

    def test_retry_after_has_bounds(self):
        scheduler = make_scheduler(max_num_seqs=1, max_queue_size=10_000)
        assert scheduler.retry_after_s() == 1.0
        request = make_request()
        scheduler.submit(request, 0.0)
        scheduler.admit(0.0)
        finish(scheduler, request, 1.0)
        assert scheduler.retry_after_s() == 1.0
        for _ in range(10_000):
            scheduler.submit(make_request(), 1.0)
        assert scheduler.retry_after_s() == 60.0

    def test_remove_takes_waiting_and_running_requests(self):
        scheduler = make_scheduler(max_num_seqs=1)
        running, waiting, other = make_request(), make_request(), make_request()
        now = submit(scheduler, running, waiting, other)
        scheduler.admit(now)
        assert scheduler.remove(waiting.key) is waiting
        assert scheduler.remove(waiting.key) is None
        assert scheduler.remove("stranger") is None
        assert scheduler.remove(running.key) is running
        assert scheduler.admit(now) == [other]
        assert held_by(scheduler) == [other]

    def test_finishing_twice_or_after_a_removal_counts_nothing(self):
        scheduler = make_scheduler()
        request = make_request()
        scheduler.submit(request, 0.0)
        scheduler.admit(0.0)
        scheduler.remove(request.key)
        finish(scheduler, request, 1.0)
        assert not scheduler.running
        assert scheduler.retry_after_s() == 1.0


class TestPriority:
    def served(self, scheduler, now) -> list[Request]:
        """Run everything that waits, one at a time."""
        order = []
        while scheduler.waiting:
            (request,) = scheduler.admit(now)
            order.append(request)
            finish(scheduler, request, now)
        return order

    def test_the_lowest_value_is_first_then_the_earliest(self):
        scheduler = make_scheduler(max_num_seqs=1)
        priorities = [0, 5, -1, 0, -1, 5]
        requests = [make_request(priority=priority) for priority in priorities]
        now = submit(scheduler, *requests)
        assert self.served(scheduler, now) == [requests[n] for n in (2, 4, 0, 3, 1, 5)]

    def test_it_comes_before_fairness_between_tenants(self):
        scheduler = make_scheduler(max_num_seqs=1)
        greedy = [make_request(tenant="greedy", priority=-1, max_tokens=500) for _ in range(5)]
        modest = [make_request(tenant="modest") for _ in range(2)]
        now = submit(scheduler, *modest, *greedy)
        assert self.served(scheduler, now) == [*greedy, *modest]

    def test_among_equals_the_least_served_tenant_is_next(self):
        scheduler = make_scheduler(max_num_seqs=1)
        heavy = [make_request(tenant="a", priority=3, max_tokens=200) for _ in range(3)]
        light = [make_request(tenant="b", priority=3, max_tokens=10) for _ in range(3)]
        now = submit(scheduler, *heavy, *light)
        assert self.served(scheduler, now) == [heavy[0], *light, *heavy[1:]]

    def test_an_urgent_request_overtakes_only_less_urgent_ones(self):
        scheduler = make_scheduler(max_num_seqs=1)
        late = make_request(tenant="a", priority=1)
        usual, other = make_request(tenant="a"), make_request(tenant="b")
        now = submit(scheduler, late, usual, other)
        assert self.served(scheduler, now) == [usual, other, late]

    def test_running_requests_are_not_stopped(self):
        scheduler = make_scheduler(max_num_seqs=1)
        running, urgent = make_request(), make_request(priority=-9)
        now = submit(scheduler, running)
        assert scheduler.admit(now) == [running]
        now = submit(scheduler, urgent, now=now)
        assert scheduler.admit(now) == []
        assert running.key in scheduler.running

    def test_a_waiting_request_s_priority_can_only_be_raised(self):
        scheduler = make_scheduler(max_num_seqs=1)
        requests = [make_request() for _ in range(3)]
        now = submit(scheduler, *requests)
        scheduler.raise_priority(requests[1], 4)
        scheduler.raise_priority(requests[2], -4)
        assert self.served(scheduler, now) == [requests[n] for n in (2, 0, 1)]
        scheduler.raise_priority(requests[0], -9)  # it is gone
        assert held_by(scheduler) == []

    def test_removed_and_expired_requests_leave_the_queue(self):
        scheduler = make_scheduler(max_num_seqs=1)
        requests = [make_request(priority=-n, deadline=100.0 - n) for n in range(4)]
        now = submit(scheduler, *requests)
        assert scheduler.remove(requests[2].key) is requests[2]
        assert expired(scheduler, 97.0) == [requests[3]]
        assert self.served(scheduler, now) == [requests[1], requests[0]]


class TestReserve:
    def full(self, reserved_seqs=2, weight=1.0) -> tuple[BatchScheduler, float]:
        """Return a scheduler whose places one tenant has, with more waiting."""
        scheduler = make_scheduler(4, reserved_seqs=reserved_seqs)
        now = submit(scheduler, *(make_request(tenant="a", weight=weight) for _ in range(8)))
        assert len(scheduler.admit(now)) == 4
        assert scheduler.admit(now) == []
        return scheduler, now

    def test_a_tenant_with_nothing_running_need_not_wait(self):
        scheduler, now = self.full()
        requests = [make_request(tenant="b") for _ in range(3)]
        now = submit(scheduler, *requests, now=now)
        assert scheduler.admit(now) == requests[:2]

    def test_tenants_share_it_by_weight(self):
        scheduler, now = self.full(reserved_seqs=4)
        first = [make_request(tenant="b", weight=3.0), make_request(tenant="c")]
        now = submit(scheduler, *first, now=now)
        assert scheduler.admit(now) == first
        more = [make_request(tenant="b", weight=3.0) for _ in range(3)]
        now = submit(scheduler, make_request(tenant="c"), *more, now=now)
        assert scheduler.admit(now) == more[:2]

    def test_it_delays_no_more_urgent_request(self):
        scheduler, now = self.full()
        urgent = make_request(tenant="a", priority=-1)
        now = submit(scheduler, urgent, make_request(tenant="b"), now=now)
        assert scheduler.admit(now) == []

    def test_places_in_it_are_given_back(self):
        scheduler, now = self.full()
        light = make_request(tenant="b")
        now = submit(scheduler, light, now=now)
        assert scheduler.admit(now) == [light]
        (*_, last) = [r for r in scheduler.running.values() if r is not light]
        finish(scheduler, last, now)
        assert scheduler.admit(now) == []
        finish(scheduler, light, now)
        assert len(scheduler.admit(now)) == 1

    @pytest.mark.parametrize(("most", "reserved"), [(1, 0), (8, 1), (32, 4), (256, 16), (1024, 16)])
    def test_how_many(self, most, reserved):
        assert reserved_seqs(most) == reserved


class TestExpiry:
    def test_only_waiting_requests_expire(self):
        scheduler = make_scheduler(max_num_seqs=1)
        runs, late, early = (make_request(deadline=d) for d in (5.0, 10.0, 20.0))
        now = submit(scheduler, runs, late, early)
        assert scheduler.admit(now) == [runs]
        assert expired(scheduler, 9.99) == []
        assert expired(scheduler, 10.0) == [late]
        assert expired(scheduler, 10.0) == []
        assert scheduler.next_deadline == 20.0
        assert held_by(scheduler) == [early, runs]
        assert expired(scheduler, 1e9) == [early]
        assert scheduler.next_deadline == math.inf

    def test_the_next_deadline_is_never_later_than_the_first(self):
        scheduler = make_scheduler(max_num_seqs=1)
        for deadline in (30.0, 10.0, 20.0):
            scheduler.submit(make_request(deadline=deadline), 0.0)
            assert scheduler.next_deadline <= deadline
        assert [r.queue_deadline for r in expired(scheduler, 25.0)] == [10.0, 20.0]

    def test_an_expired_request_is_not_admitted(self):
        scheduler = make_scheduler(max_num_seqs=1)
        scheduler.submit(make_request(deadline=1.0), 0.0)
        scheduler.expire(2.0)
        assert scheduler.admit(2.0) == []


class TestKVTokens:
    def test_requests_are_admitted_while_they_are_expected_to_fit(self):
        scheduler = make_scheduler(max_num_seqs=100, kv_cache_tokens=100)
        requests = [make_request(20, max_tokens) for max_tokens in (10, 8, 9, 7, 6)]
        now = submit(scheduler, *requests)
        assert scheduler.admit(now) == requests[:3]  # 87 of 100 tokens
        finish(scheduler, requests[0], now)
        assert scheduler.admit(now) == [requests[3]]

    def test_a_request_larger_than_the_cache_runs_alone(self):
        scheduler = make_scheduler(kv_cache_tokens=100)
        big, small = make_request(prompt_tokens=500), make_request(prompt_tokens=1)
        now = submit(scheduler, big, small)
        assert scheduler.admit(now) == [big]
        assert scheduler.admit(now) == []
        finish(scheduler, big, now)
        assert scheduler.admit(now) == [small]

    def test_a_big_request_is_not_starved_by_small_ones(self):
        scheduler = make_scheduler(kv_cache_tokens=100, max_num_seqs=100)
        small = [make_request(prompt_tokens=30, max_tokens=1) for _ in range(30)]
        big = make_request(prompt_tokens=80, max_tokens=1)
        now = submit(scheduler, small[0], big, *small[1:])
        running = scheduler.admit(now)
        for _ in range(3):
            if big in running:
                break
            for request in running:
                finish(scheduler, request, now)
            running = scheduler.admit(now)
        assert big in running

    def test_a_request_beyond_its_estimate_counts_in_full(self):
        # Nothing is known of lengths yet; what a request holds is.
        scheduler = make_scheduler(kv_cache_tokens=2000)
        grown = make_request(prompt_tokens=100, max_tokens=5000)
        scheduler.submit(grown, 0.0)
        assert scheduler.admit(0.0) == [grown]
        grown.generated_tokens = 1800
        newcomer = make_request(prompt_tokens=100, max_tokens=100)
        scheduler.submit(newcomer, 1.0)
        assert scheduler.admit(1.0) == []
        finish(scheduler, grown, 2.0)
        assert scheduler.admit(2.0) == [newcomer]

    def test_the_estimate_follows_finished_requests(self):
        scheduler = make_scheduler(kv_cache_tokens=3000, max_num_seqs=100)
        now = 0.0
        for _ in range(200):  # short answers, although 1000 tokens were allowed
            request = make_request(prompt_tokens=10, max_tokens=1000)
            scheduler.submit(request, now)
            assert scheduler.admit(now) == [request]
            now += 1
            finish(scheduler, request, now, tokens=10)
        burst = [make_request(prompt_tokens=10, max_tokens=1000) for _ in range(100)]
        now = submit(scheduler, *burst, now=now)
        assert len(scheduler.admit(now)) == 100


class TestGathering:
    def test_a_lone_request_starts_at_once(self):
        scheduler = make_scheduler()
        request = make_request()
        scheduler.submit(request, 5.0)
        assert scheduler.gather_s(5.0) == 0.0
        assert scheduler.admit(5.0) == [request]

    def test_a_second_lone_request_starts_at_once_as_well(self):
        scheduler = make_scheduler()
        for now in (5.0, 6.0, 7.0):
            request = make_request()
            scheduler.submit(request, now)
            assert scheduler.admit(now) == [request]
            finish(scheduler, request, now + 0.5)

    def test_a_client_s_next_request_starts_at_once(self):
        scheduler = make_scheduler()
        now = 5.0
        for _ in range(3):
            request = make_request()
            scheduler.submit(request, now)
            assert scheduler.admit(now) == [request]
            finish(scheduler, request, now + BURST_GAP_S / 4)
            now += BURST_GAP_S / 2

    def test_a_burst_is_gathered_while_requests_arrive(self):
        scheduler = make_scheduler(max_num_seqs=100, max_wait_s=0.05, max_batch_size=100)
        now = 1.0
        for _ in range(10):
            scheduler.submit(make_request(), now)
            now += BURST_GAP_S / 2
        assert scheduler.admit(now) == []
        assert 0 < scheduler.gather_s(now) <= BURST_GAP_S
        # A millisecond of silence ends it.
        now += BURST_GAP_S
        assert scheduler.gather_s(now) == 0.0
        assert len(scheduler.admit(now)) == 10

    def test_gathering_is_bounded_under_constant_arrivals(self):
        scheduler = make_scheduler(max_num_seqs=1000, max_wait_s=0.02, max_batch_size=1000)
        began = now = 1.0
        scheduler.submit(make_request(), now)
        scheduler.submit(make_request(), now)
        while not scheduler.admit(now):
            scheduler.submit(make_request(), now)
            now += BURST_GAP_S / 4
            assert now - began < 0.03
        assert now - began >= 0.02 - BURST_GAP_S

    def test_a_burst_starts_as_soon_as_enough_wait(self):
        scheduler = make_scheduler(max_num_seqs=100, max_batch_size=4)
        for _ in range(3):
            scheduler.submit(make_request(), 1.0)
        assert scheduler.admit(1.0) == []
        scheduler.submit(make_request(), 1.0)
        assert len(scheduler.admit(1.0)) == 4

    def test_nothing_is_gathered_while_a_batch_runs(self):
        scheduler = make_scheduler()
        scheduler.submit(make_request(), 1.0)
        scheduler.admit(1.0)
        for _ in range(2):
            scheduler.submit(make_request(), 2.0)
        assert scheduler.gather_s(2.0) == 0.0
        assert len(scheduler.admit(2.0)) == 2

    def test_no_wait_means_no_gathering(self):
        scheduler = make_scheduler(max_wait_s=0.0)
        for _ in range(2):
            scheduler.submit(make_request(), 1.0)
        assert len(scheduler.admit(1.0)) == 2

    def test_an_earlier_burst_does_not_delay_a_later_lone_request(self):
        scheduler = make_scheduler()
        burst = [make_request() for _ in range(3)]
        for request in burst:
            scheduler.submit(request, 1.0)
        for request in burst:
            scheduler.remove(request.key)
        lone = make_request()
        scheduler.submit(lone, 2.0)
        assert scheduler.admit(2.0) == [lone]


class Simulation:
    """A loop in which each step gives each running sequence one token."""

    def __init__(self, scheduler: BatchScheduler) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self.running: list[Request] = []
        self.served: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self.abort_at: dict[str, int] = {}

    def submit(self, tenant="", weight=1.0, prompt_tokens=10, max_tokens=20):
        request = make_request(prompt_tokens, max_tokens, tenant, weight)
        request.arrived = self.now
        self.scheduler.submit(request, self.now)
        return request

    def step(self):
        self.now += 0.01
        for request in self.scheduler.admit(self.now):
            self.running.append(request)
            self.served[request.tenant] += len(request.prompt)
            self.waits.setdefault(request.tenant, []).append(self.now - request.arrived)
        for request in self.running[:]:
            request.generated_tokens += 1
            self.served[request.tenant] += 1
            if request.generated_tokens == request.max_tokens:
                self.running.remove(request)
                self.scheduler.finish(request, self.now)
                self.finished[request.tenant] += 1
            elif request.generated_tokens == self.abort_at.get(request.tenant):
                # A stop string matched in the frontend: the engine hears of it as an abort.
                self.running.remove(request)
                self.scheduler.remove(request.key)
                self.finished[request.tenant] += 1

    def keep_queued(self, count, tenant, **options):
        queued = sum(r.tenant == tenant for r in held_by(self.scheduler)) - sum(
            r.tenant == tenant for r in self.running
        )
        for _ in range(count - queued):
            self.submit(tenant, **options)


class TestFairness:
    def test_equal_tenants_get_equal_shares_whatever_they_queue(self):
        simulation = Simulation(make_scheduler(max_num_seqs=8, max_queue_size=10_000))
        for _ in range(2000):
            simulation.keep_queued(500, "heavy")
            simulation.keep_queued(10, "light")
            simulation.step()
        share = simulation.served["light"] / sum(simulation.served.values())
        assert share == pytest.approx(0.5, abs=0.03)

    def test_a_tenant_at_fifty_times_the_load_does_not_slow_a_light_one(self):
        def mean_wait(heavy: bool) -> float:
            simulation = Simulation(make_scheduler(max_num_seqs=8, max_queue_size=100_000))
            for step in range(3000):
                if heavy and step % 2 == 0:
                    simulation.submit("heavy")
                if step % 100 == 50:
                    simulation.submit("light")
                simulation.step()
            assert simulation.finished["light"] >= 29
            waits = simulation.waits["light"]
            return sum(waits) / len(waits)

        # Beside the heavy tenant it waits for a place in the batch, but never for its queue: a
        # place gets free every 20 / 8 steps.
        assert mean_wait(heavy=True) <= mean_wait(heavy=False) + 0.01 * 20 / 8 + 0.02

    def test_shares_follow_weights(self):
        simulation = Simulation(make_scheduler(max_num_seqs=8, max_queue_size=10_000))
        for _ in range(3000):
            simulation.keep_queued(20, "gold", weight=3.0)
            simulation.keep_queued(20, "plain", weight=1.0)
            simulation.step()
        ratio = simulation.served["gold"] / simulation.served["plain"]
        assert ratio == pytest.approx(3, rel=0.1)

    def test_long_outputs_cost_what_they_use(self):
        # One tenant asks for few long answers, the other for many short ones. Both get the same
        # amount of service in the paper's weights: a prompt token once, an output token twice.
        simulation = Simulation(make_scheduler(max_num_seqs=8, max_queue_size=10_000))
        for _ in range(6000):
            simulation.keep_queued(20, "long", max_tokens=200)
            simulation.keep_queued(20, "short", max_tokens=10)
            simulation.step()

        def service(tenant):
            requests = simulation.finished[tenant]
            return simulation.served[tenant] * 2 - requests * 10

        assert service("long") / service("short") == pytest.approx(1, rel=0.1)

    def test_idling_earns_no_credit_against_waiting_tenants(self):
        simulation = Simulation(make_scheduler(max_num_seqs=4, max_queue_size=10_000))
        for _ in range(1000):
            simulation.keep_queued(20, "busy")
            simulation.step()
        before = simulation.served.copy()
        for _ in range(1000):
            simulation.keep_queued(20, "busy")
            simulation.keep_queued(20, "back")
            simulation.step()
        gained = simulation.served - before
        assert gained["busy"] / gained["back"] == pytest.approx(1, rel=0.1)

    def test_idling_earns_no_credit_against_running_tenants(self):
        # The busy tenant never has a queue when the other one comes: its requests all run.
        simulation = Simulation(make_scheduler(max_num_seqs=4, max_queue_size=10_000))
        for _ in range(2000):
            if not simulation.running:
                simulation.submit("busy")
            simulation.step()
        before = simulation.served.copy()
        for _ in range(1000):
            simulation.keep_queued(20, "newcomer")
            simulation.keep_queued(20, "busy")
            simulation.step()
        gained = simulation.served - before
        assert gained["busy"] / gained["newcomer"] == pytest.approx(1, rel=0.1)

    def test_aborted_requests_are_charged_too(self):
        # A stop string is matched in the frontend, which aborts the rest. What was generated until
        # then was service like any other, and what was not must not be charged.
        simulation = Simulation(make_scheduler(max_num_seqs=8, max_queue_size=10_000))
        simulation.abort_at["stops"] = 100
        for _ in range(3000):
            simulation.keep_queued(20, "stops", max_tokens=200)
            simulation.keep_queued(20, "plain", max_tokens=20)
            simulation.step()
        ratio = simulation.served["stops"] / simulation.served["plain"]
        assert ratio == pytest.approx(1, rel=0.3)


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of calls: no request is lost, none runs twice, the limits hold."""

    MAX_SEQS = 3
    RESERVED_SEQS = 0
    MAX_QUEUE = 5
    KV = 60

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = make_scheduler(
            self.MAX_SEQS, self.KV, self.MAX_QUEUE, reserved_seqs=self.RESERVED_SEQS
        )
        self.now = 0.0
        self.waiting: set[Request] = set()
        self.running: set[Request] = set()
        self.admitted: Counter[str] = Counter()

    @rule(
        target=known,
        prompt_tokens=st.integers(1, 80),
        max_tokens=st.integers(1, 30),
        tenant=st.sampled_from("abc"),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        patience=st.sampled_from([0.0, 0.5, 5.0]),
        priority=st.integers(-1, 1),
    )
    def submit(self, prompt_tokens, max_tokens, tenant, weight, patience, priority):
        deadline = self.now + patience
        request = make_request(prompt_tokens, max_tokens, tenant, weight, deadline, priority)
        # So that its length is known.
        request.sampling = msgspec.structs.replace(request.sampling, ignore_eos=True)
        own = sum(other.tenant == tenant for other in self.waiting)
        full = len(self.waiting) + own >= self.MAX_QUEUE
        try:
            self.scheduler.submit(request, self.now)
        except RequestError:
            assert full
        else:
            assert not full
            self.waiting.add(request)
        return request

    @rule(request=known, priority=st.integers(-2, 2))
    def hasten(self, request, priority):
        before = request.priority
        self.scheduler.raise_priority(request, priority)
        waits = request in self.waiting
        assert request.priority == (min(before, priority) if waits else before)

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.01, 1.0]))
    def advance(self, seconds):
        self.now += seconds

    @rule()
    def admit(self):
        gathering = self.scheduler.gather_s(self.now)
        admitted = self.scheduler.admit(self.now)
        for request in admitted:
            assert request in self.waiting
            assert request.priority == min(waiting.priority for waiting in self.waiting)
            self.waiting.remove(request)
            self.running.add(request)
            self.admitted[request.key] += 1
        # An idle engine that need not gather always starts something.
        if self.waiting and gathering == 0:
            assert self.running
        assert gathering == 0 or not admitted

    @rule()
    def step(self):
        for request in self.running:
            request.generated_tokens = min(request.max_tokens, request.generated_tokens + 1)

    @rule(request=known)
    def finish(self, request):
        if request in self.running:
            self.running.remove(request)
        self.scheduler.finish(request, self.now)

    @rule(request=consumes(known))
    def cancel(self, request):
        expected = request if request in self.waiting | self.running else None
        assert self.scheduler.remove(request.key) is expected
        self.waiting.discard(request)
        self.running.discard(request)

    @rule()
    def expire(self):
        late = {r for r in self.waiting if r.queue_deadline <= self.now}
        assert set(expired(self.scheduler, self.now)) == late
        self.waiting -= late

    @invariant()
    def accounts_agree(self):
        scheduler = self.scheduler
        assert (scheduler.waiting, len(scheduler.running)) == (len(self.waiting), len(self.running))
        everything = held_by(scheduler)
        assert len(everything) == len(set(everything))
        assert set(everything) == self.waiting | self.running
        assert len(self.running) <= self.MAX_SEQS + self.RESERVED_SEQS
        assert all(count == 1 for count in self.admitted.values())
        assert scheduler.next_deadline <= min(
            (r.queue_deadline for r in self.waiting), default=math.inf
        )
        if len(self.running) > 1:
            found = [(r.max_tokens - r.generated_tokens, r) for r in self.running]
            coming = [(left, len(r.prompt) + r.generated_tokens) for left, r in found]
            assert peak(sorted(coming, reverse=True), 1) <= self.KV

    def teardown(self):
        # Whatever happened, all that waits gets its turn once the rest is gone.
        for _ in range(100):
            for request in self.running:
                finish(self.scheduler, request, self.now)
            self.running.clear()
            self.now += 1.0
            self.admit()
        assert not self.waiting


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40)


class ReservingMachine(SchedulerMachine):
    """The same with places for light tenants."""

    RESERVED_SEQS = 2


TestReservingMachine = ReservingMachine.TestCase
TestReservingMachine.settings = settings(max_examples=60, stateful_step_count=40)
