"""Medians, ratios and tables, from samples that are made up."""

import msgspec
import pytest

from bench.compare.__main__ import parse
from bench.compare.markdown import case_table, document
from bench.compare.results import Case, Comparison, Figure, Row, ScenarioResult, rows_of

OURS = [{"requests_per_s": 100.0, "x": 0.0}, {"requests_per_s": 90.0}, {"requests_per_s": 300.0}]
THEIRS = [{"requests_per_s": 50.0, "x": 1.0}, {"requests_per_s": 30.0}, {"requests_per_s": 60.0}]


def a_case(rows: list[Row]) -> Case:
    shown = ["requests_per_s", "ttft_ms.p99"]
    return Case(name="2 clients", load={"clients": 2}, repetitions=3, shown=shown, rows=rows)


def a_start() -> Row:
    return Row(contender="vgate", measures={"start_s": Figure.of([2.0])})


def a_comparison(rows: list[Row]) -> Comparison:
    host = {"cpus": 2, "cpu": "c", "memory_gib": 1, "kernel": "k", "load_average_before": 0.5}
    scenario = ScenarioResult(name="s", title="Title", cases=[a_case(rows)])
    return Comparison(
        started_at="now",
        seconds=1.0,
        mode="quick",
        repetitions=3,
        host=host,
        versions={"vgate": "1"},
        skipped={"vllm-rs": "no file"},
        scenarios=[scenario],
        starts=Case(name="Starts", repetitions=1, shown=["start_s"], rows=[a_start()]),
    )


def test_a_figure_is_the_median_with_its_extremes() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0, [3.0, 1.0, 2.0])
    assert Figure.of([123456.7]).median == 123460.0


def test_ratios_are_of_neighbours_and_v_gates_row_is_first() -> None:
    peer, other = rows_of({"vllm-serve": THEIRS, "vgate": OURS}, {})[::-1]
    assert (other.contender, peer.contender) == ("vgate", "vllm-serve")
    assert peer.ratios["requests_per_s"] == Figure(3.0, 2.0, 5.0, [2.0, 3.0, 5.0])
    # Not the ratio of the medians, which would be 100 / 50; and nothing is divided by or of zero.
    assert "x" not in peer.ratios
    assert other.ratios == {}


def test_a_turn_that_failed_does_not_shift_the_ratios() -> None:
    failed = [THEIRS[0], {}, THEIRS[2]]
    peer = rows_of({"vgate-dry-run": OURS, "fastapi": failed}, {})[1]
    assert peer.measures["requests_per_s"].values == [50.0, 60.0]
    assert peer.ratios["requests_per_s"].values == [2.0, 5.0]


def test_without_v_gate_there_are_no_ratios() -> None:
    rows = rows_of({"a": OURS, "b": THEIRS}, {"b": ["wrong"]})
    assert [row.ratios for row in rows] == [{}, {}]
    assert rows[1].failures == ["wrong"]


def test_the_table_has_a_column_for_each_and_only_measured_rows() -> None:
    lines = case_table(a_case(rows_of({"vgate": OURS, "vllm-serve": THEIRS}, {"vgate": ["bad"]})))
    assert lines[0] == "### 2 clients (3 repetitions)"
    assert lines[2] == "|  | vgate | vllm-serve | V-Gate's ratio |"
    assert lines[4] == "| requests/s | 100 (90-300) | 50 (30-60) | 3 (2-5) |"
    assert lines[-1] == "**vgate failed:** bad"
    assert not any("TTFT" in line for line in lines)


def test_a_comparison_survives_json_and_its_failures_are_told() -> None:
    comparison = a_comparison(rows_of({"vgate": OURS}, {"vgate": ["2 of 3 answers | cut"]}))
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison
    assert comparison.failures == ["s, 2 clients, vgate: 2 of 3 answers | cut"]
    text = document(comparison)
    assert "**Wrong:** s, 2 clients, vgate: 2 of 3 answers / cut" in text
    assert "- vllm-rs is left out: no file" in text
    assert "### Starts (1 repetition)" in text
    assert "| start s | 2 |" in text


def test_quick_mode_is_a_minute_and_scenarios_keep_their_order() -> None:
    quick, full = parse(["--quick"]), parse([])
    assert (quick.seconds, quick.repetitions) == (60, 1)
    assert (full.seconds, full.repetitions) == (600, 3)
    assert set(quick.scenario) < set(full.scenario)
    chosen = parse(["--scenario", "starts", "--scenario", "memory", "--repetitions", "2"])
    assert chosen.scenario == ("memory", "starts")
    assert chosen.repetitions == 2


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--scenario", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
