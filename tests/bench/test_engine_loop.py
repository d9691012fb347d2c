"""The engine loop's measurement: what it generates and what it tells, without an engine."""

from pathlib import Path

import msgspec
import pytest

from bench.compare.results import Case, Measures
from bench.engine_loop.__main__ import main, runtime, summarize, table
from bench.engine_loop.workload import Workload, vocabulary_size

WORKLOAD = Workload(sequences=4, prompt_tokens=3, output_tokens=50, rounds=2)


def test_prompts_have_the_shape_and_are_the_same_for_both_sides() -> None:
    prompts = WORKLOAD.prompts(2048, 7)
    assert [len(of_round) for of_round in prompts] == [4, 4]
    assert {len(prompt) for of_round in prompts for prompt in of_round} == {3}
    assert all(0 <= token < 2048 for of_round in prompts for prompt in of_round for token in prompt)
    assert prompts == WORKLOAD.prompts(2048, 7)
    assert prompts != WORKLOAD.prompts(2048, 8)


def measured(*rates: float, cpu_us: float = 2500) -> list[Measures]:
    return [{"output_tokens_per_s": rate, "cpu_us_per_token": cpu_us} for rate in rates]


def test_rates_are_medians_and_the_ratio_is_that_of_neighbours() -> None:
    case = summarize(WORKLOAD, measured(800, 1000, 400), measured(400, 500, 400, cpu_us=3125))
    served, bare = case.rows
    assert WORKLOAD.tokens == 400
    assert (served.contender, bare.contender) == ("vgate", "EngineCore")
    assert bare.measures["output_tokens_per_s"].values == [800, 1000, 400]
    assert bare.measures["output_tokens_per_s"].median == 800
    assert served.measures["output_tokens_per_s"].median == 400
    assert bare.ratios["output_tokens_per_s"].values == [0.5, 0.5, 1.0]
    assert bare.ratios["cpu_us_per_token"].median == 1.25


def test_the_table_and_the_json_say_the_same() -> None:
    case = summarize(WORKLOAD, measured(4000, 2000), measured(4000, 3000))
    lines = table(case).splitlines()
    assert lines[0] == "### 2 x 4 sequences of 3 prompt and 50 output tokens (2 repetitions)"
    assert "| tokens/s | 3,500 (3,000-4,000) | 3,000 (2,000-4,000) | 1.25 (1-1.5) |" in lines
    assert "| 2 | 3,000 | 2,000 |" in lines
    assert lines[-1] == "tokens/s, ratio of the medians: 1.167"
    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


def test_both_sides_run_on_one_configuration_with_room_for_the_answer() -> None:
    config = runtime("/model", WORKLOAD, "/x").engine_config(0)
    assert config.batch.max_num_seqs == 4
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
