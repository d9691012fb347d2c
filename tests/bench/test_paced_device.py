"""The paced device: its times and limits, and what it answers a scheduler, without vLLM."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.compare.scenarios.paced_device import correct
from bench.hooks import paced_device
from bench.paced_device.device import DEVICES, Counters, Device, fitting

FAST = DEVICES["fast"]


def test_the_limit_is_steps_without_a_pause_and_every_prompt() -> None:
    # 128 steps of 3,320 us for 64 answers, and 64 prompts of 170 tokens in between.
    answers_us = 128 * (3000 + 64 * 5) + 64 * 170 * 3
    assert FAST.limit(64, 170, 128) == pytest.approx(64 * 128 / answers_us * 1e6)
    assert FAST.limit(64, 170, 128) == pytest.approx(17_900, rel=0.01)
    assert FAST.limit(256, 170, 128) > 2 * FAST.limit(64, 170, 128)


@pytest.mark.parametrize(("overlap", "missed"), [(True, 2), (False, 1)])
def test_a_closed_loop_misses_steps_between_two_answers(overlap: bool, missed: int) -> None:
    device = msgspec.structs.replace(FAST, overlap=overlap)
    # A place's sequence has a token in each of 128 steps, then it is empty.
    in_a_step = 64 * 128 / (128 + missed)
    reach = device.closed_loop_limit(64, 170, 128)
    assert reach == pytest.approx(device.limit(in_a_step, 170, 128))
    assert 0.98 < reach / device.limit(64, 170, 128) < 0.994


def test_no_more_is_delivered_than_was_made() -> None:
    measures = {
        "delivered_tokens_per_s": 60_000.0,
        "cpu_us_per_token.all": 20.0,
        "cpu_us_per_token.frontend": 15.0,
        "requests_per_s": 100.0,
    }
    correct(measures, 15_000.0)
    assert measures == {
        "delivered_tokens_per_s": 15_000.0,
        "cpu_us_per_token.all": 80.0,
        "cpu_us_per_token.frontend": 60.0,
        "requests_per_s": 100.0,
    }


def test_sequences_fit_by_their_mean_size() -> None:
    # Every sequence grows from 170 to 682 tokens: 426 on average.
    assert fitting(8192, 170, [512]) == pytest.approx(8192 / 426)
    # Ten times the tokens stay ten times as long.
    assert fitting(1000, 0, [10, 100]) == pytest.approx(1000 / ((10 * 5 + 100 * 50) / 110))


def test_cards_are_their_data_sheets() -> None:
    # 3.08 GB of weights at 360 GB/s, 28,672 bytes of KV cache for each of 250 tokens.
    device = DEVICES["rtx3060-1.5b"]
    assert device.base_us == pytest.approx(3.08e9 / 360e9 * 1e6)
    assert device.sequence_us == pytest.approx(250 * 28_672 / 360e9 * 1e6)
    assert device.prompt_token_us == pytest.approx(3.08e9 / 25.5e12 * 1e6)
    bases = [DEVICES[name].base_us for name in ("rtx4090-7b", "rtx3060-1.5b", "h100-1.5b")]
    assert bases == sorted(bases, reverse=True)


def test_a_device_is_three_times() -> None:
    assert Device.parse("3000,5,3") == FAST
    for wrong in ("3000,5", "3000,5,0", "fast"):
        with pytest.raises(ValueError, match=r"unpack|0|float"):
            Device.parse(wrong)


def scheduled(
    numbers: dict[str, int],
    new: dict[str, int] | None = None,
    cached: dict[str, tuple[int, int]] | None = None,
    resumed: tuple[str, ...] = (),
) -> Any:
    """A scheduler's output: tokens by sequence; new prompts; what is computed, and the outputs."""
    return SimpleNamespace(
        num_scheduled_tokens=numbers,
        total_num_scheduled_tokens=sum(numbers.values()),
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, prompt_token_ids=[0] * length, num_computed_tokens=0)
            for name, length in (new or {}).items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached or ()),
            num_computed_tokens=[computed for computed, _ in (cached or {}).values()],
            num_output_tokens=[outputs for _, outputs in (cached or {}).values()],
            resumed_req_ids=set(resumed),
        ),
    )


def test_a_token_comes_when_all_before_it_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    settings = json.loads(FAST.environment(path)["PACED_DEVICE"])
    device = paced_device._Device(settings)

    def step(*arguments: Any, **named: Any) -> dict[str, list[int]]:
        _, ids, tokens = device.start(scheduled(*arguments, **named))
        return dict(zip(ids, tokens, strict=True))

    # The prompt of b comes in two parts.
    assert step({"a": 10, "b": 20}, new={"a": 10, "b": 30}) == {"a": [266], "b": []}
    assert step({"a": 1, "b": 10}, cached={"a": (10, 1), "b": (20, 0)}) == {"a": [267], "b": [286]}
    # After a preemption the prompt and the outputs are computed again, here in two parts too.
    resumed = step({"a": 8}, cached={"a": (0, 2)}, resumed=("a",))
    assert resumed == {"a": []}
    assert step({"a": 4}, cached={"a": (8, 2)}) == {"a": [268]}
    device.forget({"a", "b"})
    assert step({"a": 3}, new={"a": 3}) == {"a": [259]}
    device.count_cpu(1e-3)
    counters = Counters.read(path)
    assert (counters.steps, counters.tokens, counters.started, counters.resumed) == (5, 5, 3, 1)
    assert counters.prompt_tokens == 28 + 9 + 7 + 3 + 2
    assert counters.busy_us == 5 * 3000 + 7 * 5 + 49 * 3
    assert counters.since(counters).busy_us == 0


def test_steps_follow_each_other_and_none_begins_before_its_work() -> None:
    device = paced_device._Device(json.loads(FAST.environment()["PACED_DEVICE"]))
    before = time.monotonic()
    first, *_ = device.start(scheduled({"a": 1}, new={"a": 1}))
    second, *_ = device.start(scheduled({"a": 1}, cached={"a": (1, 1)}))
    assert first >= before + 0.003005
    assert second == pytest.approx(first + 0.003005)
    time.sleep(second - time.monotonic() + 0.001)
    idle = time.monotonic()
    third, *_ = device.start(scheduled({"a": 1}, cached={"a": (2, 2)}))
    assert third >= idle + 0.003005
