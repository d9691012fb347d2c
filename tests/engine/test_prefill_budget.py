"""The bound of a step's prompt tokens, on a simulated device."""

import random
from collections.abc import Callable

import pytest

from vgate.engine.prefill_budget import PrefillBudget, StepTime

FULL = 2048


class Device:
    """Takes its time for a step: a base, something for each sequence and for each prompt token."""

    def __init__(self, base_s: float, sequence_s: float, token_s: float, noise: float = 0.0):
        self.base_s, self.sequence_s, self.token_s = base_s, sequence_s, token_s
        self.noise = noise
        self._random = random.Random(1)

    def seconds(self, sequences: int, prompt_tokens: int) -> float:
        exact = self.base_s + self.sequence_s * sequences + self.token_s * prompt_tokens
        late = 10 * self.base_s if self._random.random() < self.noise / 10 else 0.0
        return exact * (1 + self.noise * self._random.uniform(-1, 1)) + late


def serve(
    budget: PrefillBudget,
    device: Device,
    *,
    decoding: int = 128,
    prompt: int = 8000,
    pause: int = 50,
    prompts: int = 20,
    on_step: Callable[[int, float], None] = lambda _tokens, _seconds: None,
) -> int:
    """Compute long prompts beside sequences that decode; return the steps of the last one."""
    steps = 0
    for _ in range(prompts):
        for _ in range(pause):
            seconds = device.seconds(decoding, 0)
            budget.observe(0, seconds)
        left, steps = prompt, 0
        while left:
            bound = budget.tokens(decoding, 1)
            tokens = min(left, FULL if bound is None else bound, FULL)
            assert tokens > 0
            seconds = device.seconds(decoding, tokens)
            budget.observe(tokens, seconds)
            on_step(tokens, seconds)
            left -= tokens
            steps += 1
    return steps


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize(
    "device", [(3e-3, 5e-6, 3e-6), (1e-3, 2e-6, 1e-6), (8e-3, 2e-5, 1.2e-4), (0.05, 1e-5, 2e-5)]
)
def test_steps_with_prompts_last_about_twice_as_long(
    device: tuple[float, float, float], noise: float
) -> None:
    simulated = Device(*device, noise=noise)
    took: list[float] = []
    serve(PrefillBudget(None), simulated, on_step=lambda _tokens, s: took.append(s))
    without = simulated.base_s + 128 * simulated.sequence_s
    settled = sorted(took[len(took) // 2 :])
    middle = settled[len(settled) // 2]
    unbounded = without + FULL * simulated.token_s
    assert middle == pytest.approx(min(2 * without, unbounded), rel=0.15)


@pytest.mark.parametrize("target_ms", [8, 12, 20])
def test_a_target_is_kept(target_ms: int) -> None:
    device = Device(5e-3, 5e-6, 2e-5, noise=0.1)
    took: list[float] = []
    budget = PrefillBudget(target_ms / 1000)
    serve(budget, device, on_step=lambda _tokens, seconds: took.append(seconds))
    settled = sorted(took[len(took) // 2 :])
    assert settled[len(settled) // 2] == pytest.approx(target_ms / 1000, rel=0.15)


def test_a_target_that_cannot_be_met_leaves_a_quarter_of_a_step_to_prompts() -> None:
    device = Device(20e-3, 0, 1e-4)
    steps = serve(PrefillBudget(5e-3), device, prompt=1000)
    assert steps == pytest.approx(1000 / 50, rel=0.15)


def test_the_bound_follows_a_device_that_changes() -> None:
    device, budget = Device(3e-3, 0, 3e-6), PrefillBudget(None)
    serve(budget, device)
    fast = budget.tokens(128, 1)
    device.token_s *= 4
    serve(budget, device)
    slow = budget.tokens(128, 1)
    device.token_s /= 4
    device.base_s *= 2
    serve(budget, device)
    again = budget.tokens(128, 1)
    assert fast is not None
    assert slow is not None
    assert again is not None
    assert slow / fast == pytest.approx(1 / 4, rel=0.2)
    assert again / fast == pytest.approx(2, rel=0.2)


def test_prompts_without_a_pause_are_followed_too() -> None:
    device, budget = Device(3e-3, 0, 3e-5, noise=0.1), PrefillBudget(None)
    serve(budget, device)
    device.base_s *= 3
    # From here on no step is without a prompt.
    serve(budget, device, pause=0, prompts=100)
    bound = budget.tokens(128, 1)
    assert bound == pytest.approx(300, rel=0.4)


def test_nothing_is_bounded_while_nothing_decodes_or_before_anything_is_known() -> None:
    budget = PrefillBudget(None)
    assert budget.tokens(128, 1) is None
    serve(budget, Device(3e-3, 0, 3e-6))
    assert budget.tokens(0, 5) is None


def test_many_that_wait_for_their_prompt_get_more() -> None:
    budget = PrefillBudget(None)
    serve(budget, Device(3e-3, 0, 3e-5))
    few, many, most = (budget.tokens(64, starting) for starting in (1, 16, 64))
    assert few is not None
    assert many == pytest.approx(2 * few, rel=0.05)
    assert most == pytest.approx(8 * few, rel=0.05)


def test_a_pause_of_the_machine_is_not_taken_for_the_device() -> None:
    device, times = Device(3e-3, 0, 3e-5), StepTime()
    for tokens in [0, 100, 0, 50] * 20:
        times.observe(tokens, device.seconds(0, tokens))
    before = times.base_s, times.token_s
    times.observe(100, 1.0)
    times.observe(0, 0.5)
    assert times.base_s < 1.5 * before[0]
    assert times.token_s < 1.5 * before[1]


def test_times_stay_above_zero_whatever_is_measured() -> None:
    times, chance = StepTime(), random.Random(2)
    for _ in range(5000):
        times.observe(chance.choice([0, 1, 100, 8000]), chance.choice([0.0, 1e-9, 1e-3, 3.0]))
        assert times.base_s >= 0
        assert times.token_s >= 0
    assert times.base_s > 0
    assert times.token_s > 0
