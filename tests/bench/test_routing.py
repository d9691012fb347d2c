"""The conversations of bench.routing, over HTTP."""

import asyncio

import pytest

from bench.routing.served import converse
from bench.routing.simulation import MACHINE, Workload


@pytest.mark.slow
def test_a_run_knows_the_time_and_the_tokens_of_each_request():
    load = Workload(
        conversations=4, turns=2, systems=2, system_tokens=500, output_tokens=5, pause_s=0.01
    )
    machine = MACHINE._replace(inter_token_s=0.005)
    seen = asyncio.run(converse("prefix_aware", load, 2, machine))
    assert len(seen.ttft_s) == len(seen.prefill_s) == 8
    assert sum(seen.prefill_s) < sum(seen.ttft_s)
    # 600 tokens first, then the answer and 100 more.
    assert seen.prompt_tokens == 4 * (600 + 705)
    assert 0 < seen.cached_tokens < seen.prompt_tokens
    assert len(seen.replicas) == 2
    assert seen.hits == seen.cached_tokens / seen.prompt_tokens
    # A long prompt is computed in several steps.
    assert sum(each.generated for each in seen.replicas) >= 8 * 5
    done = [each.tokens for each in seen.replicas]
    assert sum(done) >= seen.prefilled + 8 * 5
    assert 1 <= seen.imbalance == max(done) / (sum(done) / 2)
