"""Random requests over more models than fit, with kills: `bench.on_demand` on a small scale."""

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest

from bench.on_demand.load import Load
from bench.on_demand.plan import Outcome, Plan, start, table
from bench.swaps import Request

REQUESTS = int(os.environ.get("VGATE_TEST_ON_DEMAND_REQUESTS", "60"))


def ordeal(plan: Plan, directory: Path, trace: list[Request] | None = None) -> Outcome:
    with start(plan, directory) as instance:
        outcome = asyncio.run(Load(plan, instance, trace).run())
    print(table(outcome))
    if not outcome.passed:
        print("\n".join(line for _, line in instance.log))
    return outcome


@pytest.mark.timeout(120 + REQUESTS)
def test_each_request_is_answered_right(run_dirs: Path) -> None:
    plan = Plan(
        requests=REQUESTS, models=4, room=2, rate=12, kills=2, min_loaded_s=0.5, max_wait_s=2
    )
    outcome = ordeal(plan, run_dirs)
    assert outcome.passed, table(outcome)
    assert outcome.killed > 0
    assert sum(outcome.refused.values()) == 0
    switches = sum(a.model != b.model for a, b in pairwise(outcome.trace))
    assert len(outcome.loads) < switches / 2


@pytest.mark.timeout(120)
def test_alternating_models_are_loaded_once_each(run_dirs: Path) -> None:
    plan = Plan(models=3, room=1, kills=0, min_loaded_s=0.5, max_wait_s=4)
    trace = [Request("ABC".index(model), 0.1 * n) for n, model in enumerate("ABAACABC")]
    outcome = ordeal(plan, run_dirs, trace)
    assert (outcome.right, outcome.problems) == (len(trace), [])
    assert len(outcome.loads) <= 3
    assert outcome.most_engines == 1
