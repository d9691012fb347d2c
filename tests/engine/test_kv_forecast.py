"""What the KV cache will hold at its fullest, and how long answers become."""

import itertools
import random
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.engine.forecast.kv_cache import KVForecast, peak
from vgate.engine.forecast.output_lengths import OutputLengths
from vgate.engine.request import Request
from vgate.wire.parameters import SamplingParams

numbers = itertools.count(1)


def make_request(prompt=100, max_tokens=100, generated=0, tenant="", *, ignore_eos=True) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos)
    tokens = prompt if isinstance(prompt, list) else [1] * prompt
    request = Request(str(next(numbers)), tokens, sampling, tenant=tenant)
    request.generated_tokens = generated
    return request


def forecast_of(*running, capacity=10_000, block_tokens=1) -> KVForecast:
    forecast = KVForecast(capacity, block_tokens)
    forecast.begin(running)
    return forecast


sequences = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 80)), min_size=1, max_size=12)


@given(sequences)
def test_the_peak_is_the_most_that_a_simulation_holds(sequences):
    held = [sum(size + step for coming, size in sequences if coming >= step) for step in range(61)]
    assert peak(sorted(sequences, reverse=True), 1) == max(held)


@given(sequences, st.sampled_from([3, 16]))
def test_in_blocks_it_is_the_most_whole_blocks_at_any_time(sequences, block):
    blocks = [
        sum(-(-(size + step) // block) for coming, size in sequences if coming >= step)
        for step in range(61)
    ]
    assert peak(sorted(sequences, reverse=True), block) == max(blocks) * block


class TestExcess:
    def test_sequences_that_end_apart_need_less_than_the_sum_of_their_ends(self):
        running = [make_request(generated=generated) for generated in (0, 25, 50, 75)]
        # When the one that began first has ended, no later sum is larger.
        ends = 200 + 175 + 150 + 125 + 125  # of 1,000 at all ends
        newcomer = make_request()
        assert forecast_of(*running, capacity=ends).excess(newcomer) == 0
        assert forecast_of(*running, capacity=ends - 1).excess(newcomer) == 1
        assert forecast_of(*running, capacity=ends).excess(newcomer, reserve=30) == 30

    def test_what_has_started_counts(self):
        forecast = forecast_of(capacity=500)
        for _ in range(2):
            newcomer = make_request()
            assert forecast.excess(newcomer) <= 0
            forecast.start(newcomer, 0)
        assert forecast.excess(make_request()) == 100

    def test_a_step_later_a_token_less_is_missing(self):
        running, newcomer = [make_request(generated=50)], make_request()
        excess = forecast_of(*running, capacity=260).excess(newcomer)
        running[0].generated_tokens += excess
        assert excess > 1
        assert forecast_of(*running, capacity=260).excess(newcomer) == 0

    def test_one_that_starts_ends_some_steps_later(self):
        def excess(start_steps: int) -> int:
            forecast = KVForecast(299, block_tokens=1, start_steps=start_steps)
            forecast.begin([make_request(prompt=100, max_tokens=100, generated=49)])
            return forecast.excess(make_request(prompt=50, max_tokens=50))

        # It would end a step before the other one; so it is the other that ends first.
        assert (excess(0), excess(2)) == (0, 2)

    def test_a_shared_prefix_counts_once(self):
        def excess(cached: int) -> int:
            running = [make_request([7] * 400 + [n], generated=1) for n in range(5)]
            for request in running:
                request.cached_tokens = cached
            return forecast_of(*running, capacity=0).excess(make_request([8], max_tokens=10))

        assert excess(0) - excess(400) == 4 * 400
        # A block is enough: it is a block less for each.
        assert excess(0) - excess(16) == 4 * 16

    def test_a_newcomer_counts_its_prefix_only_while_no_other_holds_it(self):
        holder = make_request([7] * 400, max_tokens=100, generated=1)
        holder.cached_tokens = 400
        forecast = forecast_of(holder, capacity=0)
        shorter, longer = (make_request([7] * 500, max_tokens=most) for most in (50, 200))
        alone = [make_request([8] * 500, max_tokens=most) for most in (50, 200)]
        assert forecast.excess(alone[0]) - forecast.excess(shorter) == 400
        assert forecast.excess(alone[1]) == forecast.excess(longer)

    def test_a_resumed_request_may_have_more_cached_than_its_prompt(self):
        holder = make_request(prompt=300, max_tokens=600, generated=200)
        holder.cached_tokens = 400
        forecast = forecast_of(holder)
        fits, other = make_request(prompt=[1] * 500), make_request(prompt=[1] * 399 + [2])
        assert forecast.excess(fits) == forecast.excess(make_request(prompt=[2] * 500)) - 300
        assert forecast.excess(other) == forecast.excess(make_request(prompt=[2] * 400)) - 300

    def test_preemptions_widen_the_margin_and_answers_narrow_it(self):
        running = [make_request(max_tokens=2000, ignore_eos=False) for _ in range(10)]
        forecast, newcomer = forecast_of(*running), make_request()
        began = forecast.excess(newcomer)
        forecast.preempted(5)
        cautious = forecast.excess(newcomer)
        assert cautious > began
        # The total, so nothing new.
        forecast.preempted(5)
        assert forecast.excess(newcomer) == cautious
        for _ in range(500):
            forecast.ended(make_request(ignore_eos=True, generated=10))
        assert forecast.excess(newcomer) == pytest.approx(began, abs=2)

    def test_no_margin_where_lengths_are_known(self):
        forecast, newcomer = forecast_of(make_request()), make_request()
        began = forecast.excess(newcomer)
        forecast.preempted(5)
        assert forecast.excess(newcomer) == began

    def test_each_tenant_has_lengths_of_its_own(self):
        forecast = forecast_of(capacity=0)
        for _ in range(200):
            for tenant, length in (("short", 10), ("long", 900)):
                request = make_request(10, 1000, length, tenant, ignore_eos=False)
                forecast.ended(request)
        needed = [
            forecast.excess(make_request(10, 1000, tenant=tenant, ignore_eos=False))
            for tenant in ("short", "long")
        ]
        assert needed[0] < 200
        assert needed[1] > 600


class TestOutputLengths:
    @pytest.mark.parametrize("generated", [0, 50, 150, 400])
    def test_quantiles_are_those_of_what_was_seen(self, generated):
        choose = random.Random(1)
        seen = [int(choose.lognormvariate(5, 0.8)) + 1 for _ in range(5000)]
        lengths = OutputLengths()
        for tokens in seen:
            lengths.add(tokens, cut=False)
        rest = [tokens for tokens in seen if tokens > generated]
        found = [lengths.quantile(share, generated, 10_000) for share in (0.25, 0.5, 0.75)]
        assert found == pytest.approx(quantiles(rest, n=4), rel=0.15)

    def test_an_answer_that_was_cut_would_have_been_longer(self):
        choose = random.Random(2)
        seen = [int(choose.expovariate(1 / 200)) + 1 for _ in range(5000)]
        lengths = OutputLengths()
        for tokens in seen:
            lengths.add(min(tokens, 300), cut=tokens > 300)
        # Half of those that reached 150 would have had 139 (200 ln 2) more.
        assert lengths.quantile(0.5, 150, 10_000) == pytest.approx(289, rel=0.15)
        assert lengths.quantile(0.9, 150, 300) == 300

    def test_what_has_not_changed_is_not_computed_again(self):
        # A heartbeat asks for the mean, also where all answers have a given length.
        common = OutputLengths()
        own, version = OutputLengths(common), common.version
        before = common.mean(), own.mean()
        assert (common.mean(), own.mean()) == before
        assert (common.version, own.version) == (version, 1)
        common.add(10_000, cut=False)
        assert common.mean() > before[0]
        # One that has seen nothing believes the common one.
        assert own.mean() > before[1]

    def test_the_latest_count_most(self):
        lengths = OutputLengths()
        for tokens in [50] * 2000 + [800] * 1000:
            lengths.add(tokens, cut=False)
        assert lengths.quantile(0.5, 0, 10_000) > 500

    @given(st.floats(0, 0.999), st.integers(0, 2_000_000), st.integers(1, 100_000))
    def test_any_length_has_one(self, share, generated, more):
        lengths = OutputLengths()
        lengths.add(30, cut=False)
        assert generated < lengths.quantile(share, generated, generated + more) <= generated + more
