"""The engine loop's measurement: what it generates and what it tells, without an engine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.engine_loop.__main__ import Measured, Summary, main, runtime, summarize, table
from bench.engine_loop.workload import Workload, vocabulary_size

WORKLOAD = Workload(sequences=4, prompt_tokens=3, output_tokens=50, rounds=2)


def test_prompts_have_the_shape_and_are_the_same_for_both_sides() -> None:
    prompts = WORKLOAD.prompts(2048, 7)
    assert [len(of_round) for of_round in prompts] == [4, 4]
    assert {len(prompt) for of_round in prompts for prompt in of_round} == {3}
    assert all(0 <= token < 2048 for of_round in prompts for prompt in of_round for token in prompt)
    assert prompts == WORKLOAD.prompts(2048, 7)
    assert prompts != WORKLOAD.prompts(2048, 8)


def test_rates_and_ratio_come_from_the_medians() -> None:
    bare = [Measured(seconds, cpu_s=1.0) for seconds in (0.5, 0.4, 1.0)]
    served = [Measured(seconds, cpu_s=1.25) for seconds in (1.0, 0.8, 1.0)]
    summary = summarize("model", WORKLOAD, bare, served)
    assert WORKLOAD.tokens == 400
    assert summary.bare.values == [800, 1000, 400]
    assert (summary.bare.median, summary.served.median, summary.ratio) == (800, 400, 0.5)
    assert (summary.pairs.values, summary.pairs.median) == ([0.5, 0.5, 1.0], 0.5)
    assert summary.bare_cpu_us == pytest.approx(2500)
    assert summary.served_cpu_us == pytest.approx(3125)


def test_spread_is_the_range_over_the_median() -> None:
    measured = [Measured(seconds, 0.05) for seconds in (4.0, 5.0, 8.0)]
    lines = table(summarize("model", WORKLOAD, measured, measured)).splitlines()
    assert [line.split() for line in lines if line.startswith("spread")] == [
        ["spread", "62.5%", "62.5%"]
    ]


def test_the_table_and_the_json_say_the_same() -> None:
    measured = [Measured(0.1, 0.05), Measured(0.2, 0.05)]
    summary = summarize("model", WORKLOAD, measured, measured)
    text = table(summary)
    assert "2 x 4 sequences of 3 prompt and 50 output tokens" in text
    assert [line.split() for line in text.splitlines() if line.startswith("median")] == [
        ["median", "3,000", "3,000", "1.000"]
    ]
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_both_sides_run_on_one_configuration_with_room_for_the_answer() -> None:
    config = runtime("/model", WORKLOAD, "/x").engine_config(0)
    assert config.batch.max_batch_size == 4
    assert config.model.max_model_len >= 53


def test_vocabulary_is_the_models(tiny_model_dir: Path) -> None:
    assert vocabulary_size(tiny_model_dir) == 2048


def test_a_directory_without_a_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no model" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--sequences", "--rounds", "--repetitions"])
def test_nothing_to_measure_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["model", option, "0"])
    assert refused.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
