"""Timing the steps of a scheduler that somebody asks about while it runs."""

from types import SimpleNamespace

import pytest

from vgate.engine.backends.vllm.step_budget import time_steps


class Scheduler:
    """Schedules steps of a fixed size, one ahead of their tokens."""

    max_num_scheduled_tokens = 2048
    num_spec_tokens = 0

    def __init__(self) -> None:
        self.updated = []

    def schedule(self, throttle: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            total_num_scheduled_tokens=1001,
            num_scheduled_tokens={"a": 1001},
            scheduled_spec_decode_tokens={},
        )

    def update_from_output(self, scheduled, output) -> str:
        self.updated.append(scheduled)
        return output


@pytest.mark.parametrize("in_flight", [0, 1, 2])
def test_steps_are_timed_from_the_next_one_on(in_flight):
    scheduler, now = Scheduler(), 100.0
    before = [scheduler.schedule() for _ in range(in_flight)]
    budget = time_steps(scheduler, lambda: now)
    assert budget.tokens_per_s == 0
    steps = [*before, scheduler.schedule(), scheduler.schedule()]
    now += 0.5
    for step in steps[:in_flight]:
        assert scheduler.update_from_output(step, "output") == "output"
    # They were scheduled before: how long they took isn't known.
    assert budget.tokens_per_s == 0
    for step in steps[in_flight:]:
        now += 0.5
        scheduler.update_from_output(step, "output")
    assert budget.tokens_per_s > 0
    assert scheduler.updated == steps
    # It is only timed: what a step may have stays as it was.
    assert scheduler.max_num_scheduled_tokens == 2048


def test_a_prompt_s_speed_is_what_its_steps_took():
    scheduler, now = Scheduler(), 0.0
    budget = time_steps(scheduler, lambda: now)
    for prompt_tokens in [0, 1000] * 200:
        step = scheduler.schedule()
        step.total_num_scheduled_tokens = prompt_tokens + 1
        now += 0.01 + prompt_tokens * 5e-5
        scheduler.update_from_output(step, None)
    assert budget.tokens_per_s == pytest.approx(20_000, rel=0.1)
