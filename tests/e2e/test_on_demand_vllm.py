"""Models on demand with vLLM: two tiny models, of which one fits."""

import asyncio
from pathlib import Path

import pytest

from bench.on_demand.load import QUESTIONS, Load
from bench.on_demand.plan import Plan, start, table
from bench.swaps import Request
from tests.tiny_model.scripted import make_scripted_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

ANSWERS = ("I am the first one", "You talk to another model")


def test_two_models_take_turns(run_dirs: Path, tmp_path: Path) -> None:
    for number, answer in enumerate(ANSWERS):
        script = dict.fromkeys((question.split()[0] for question in QUESTIONS), answer)
        make_scripted_model(tmp_path / str(number), script, 512)
    plan = Plan(
        models=2,
        room=1,
        kills=0,
        min_loaded_s=0.5,
        max_wait_s=2,
        deadline_s=200,
        memory_mib=2048,
        directories=tuple(str(tmp_path / str(number)) for number in range(2)),
    )
    trace = [Request(model, 0.05 * number) for number, model in enumerate((0, 1, 0, 1, 1, 0))]
    with start(plan, run_dirs) as instance:
        load = Load(plan, instance, trace)
        load.known = {
            (number, question): answer
            for number, answer in enumerate(ANSWERS)
            for question in QUESTIONS
        }
        outcome = asyncio.run(load.run())
    if not outcome.passed:
        print("\n".join(line for _, line in instance.log))
    assert outcome.passed, table(outcome)
    assert outcome.right == len(trace)
    assert len(outcome.loads) == len(ANSWERS)
