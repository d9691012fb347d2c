"""Faults of every kind under a mixed load: each answer is right, or its error is explained."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.chaos.__main__ import Outcome, Plan, possible, run, start, table
from bench.chaos.faults import KINDS


def ordeal(directory: Path, **options: Any) -> Outcome:
    plan = Plan(**options)
    with start(plan, directory) as instance:
        outcome = asyncio.run(run(plan, instance))
    print(table(outcome))
    if not outcome.passed:
        print("\n".join(line for _, line in instance.log))
    return outcome


@pytest.mark.timeout(300)
def test_every_fault_once(run_dirs: Path) -> None:
    # A minute passes until a worker gives up what a client has begun to send.
    kinds = possible([kind for kind in KINDS if kind != "lost_requests"])
    outcome = ordeal(
        run_dirs,
        seconds=240,
        most_faults=len(kinds),
        seed=11,
        clients=24,
        pause_s=0.5,
        kinds=kinds,
        settings={"server__write_timeout_s": 3},
    )
    assert outcome.passed, table(outcome)
    assert {fault.kind for fault in outcome.faults} == set(kinds)


@pytest.mark.timeout(300)
def test_engines_that_die_cost_no_answer(run_dirs: Path) -> None:
    outcome = ordeal(
        run_dirs,
        seconds=240,
        most_faults=5,
        seed=12,
        clients=24,
        pause_s=1,
        kinds=("engine_kill",),
        settings={"dry_run__fault": "crash", "dry_run__fault_every": 300},
    )
    assert outcome.own_deaths
    assert outcome.passed, table(outcome)
    # Only a request that two engines died with may end in an error.
    assert set(outcome.tally.outcomes) <= {"right", "excused"}
    assert set(outcome.tally.excused) <= {"two engines died within it"}


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm_engines_that_die_cost_no_answer(run_dirs: Path, tiny_model_dir: Path) -> None:
    settings = {"model__dtype": "float32", "supervision__hang_timeout_s": 60}
    outcome = ordeal(
        run_dirs,
        seconds=300,
        most_faults=3,
        seed=13,
        clients=12,
        pause_s=4,
        kinds=("engine_kill",),
        model=str(tiny_model_dir),
        settings=settings,
    )
    assert outcome.passed, table(outcome)
