"""Our scheduler does what vLLM's does, with the real vLLM and without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]


@pytest.fixture(scope="module")
def report(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("schedulers") / "report.json"
    run_program("tests.engine.schedulers_program", str(tiny_model_dir), str(path), **OFFLINE)
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def test_every_step_is_scheduled_and_read_as_vllm_does(report: dict[str, Any]) -> None:
    assert {kind: one["difference"] for kind, one in report.items()} == dict.fromkeys(report)
    assert len(report) == 4


def test_the_comparison_met_every_case(report: dict[str, Any]) -> None:
    cases = [
        *("short way", "steps of both ways", "preempted", "aborted", "cache reset", "cached"),
        "keys",
        *("with []", "with a grammar", "with ['logprobs']", "ended: STOP", "ended: LENGTH"),
    ]
    for one in report.values():
        assert {case: one["cases"].get(case, 0) > 10 for case in cases} == dict.fromkeys(
            cases, True
        )
