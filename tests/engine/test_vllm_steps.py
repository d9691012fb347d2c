"""The bound of a step's prompt tokens in the real vLLM's scheduler (CPU build)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.vllm_steps_program import BOUND, DECODING, PROMPT_TOKENS
from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]


@pytest.fixture(scope="module")
def report(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("vllm-steps") / "report.json"
    run_program("tests.engine.vllm_steps_program", str(tiny_model_dir), str(path))
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def test_without_a_bound_a_prompt_is_computed_in_one_step(report: dict[str, Any]) -> None:
    assert report["unbounded"]["scheduled"][0] == DECODING + PROMPT_TOKENS


def test_the_scheduler_follows_the_bound_and_every_sequence_decodes(report: dict[str, Any]) -> None:
    steps = report["bounded"]["scheduled"]
    parts = PROMPT_TOKENS // BOUND
    assert steps[:parts] == [DECODING + BOUND] * parts
    assert steps[parts] == DECODING + 1


def test_the_tokens_are_the_same(report: dict[str, Any]) -> None:
    assert report["bounded"]["tokens"] == report["unbounded"]["tokens"]


def test_the_budget_hears_of_every_prompt_token(report: dict[str, Any]) -> None:
    # Of each part of a prompt one token counts as its sequence's own.
    parts = PROMPT_TOKENS // BOUND
    assert report["observed"] == DECODING * 10 + PROMPT_TOKENS - parts
    assert report["asked"] == [[0, DECODING], [DECODING, 1]]
    assert report["shortest_s"] > 0


def test_a_measured_bound_takes_effect(report: dict[str, Any]) -> None:
    steps = report["steered"]["scheduled"]
    assert max(steps) < report["unbounded"]["scheduled"][0]
    assert report["steered"]["tokens"] == report["unbounded"]["tokens"]
