"""Speculative decoding on the real vLLM (CPU build): the same tokens in fewer steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.vllm_speculation_program import LOGPROBS, MOST, SWITCHED
from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2 * PROGRAM_TIMEOUT_S + 30)]


def test_a_draft_model_changes_nothing_but_the_steps(tiny_model_dir: Path, tmp_path: Path) -> None:
    reports: list[dict[str, Any]] = []
    for drafted in ("0", "3"):
        path = tmp_path / drafted
        run_program(
            "tests.engine.vllm_speculation_program", str(tiny_model_dir), drafted, str(path)
        )
        reports.append(json.loads(path.read_bytes()))
    plain, speculative = reports
    assert speculative["tokens"] == plain["tokens"]
    assert [len(tokens) for tokens in speculative["tokens"]] == [*MOST, LOGPROBS]
    assert set(speculative["reasons"]) == {"length"}
    assert speculative["logprobs"] == [
        [token, pytest.approx(value, abs=0.01)] for token, value in plain["logprobs"]
    ]
    # The draft model is the model, so what it drafted was right, but for what came after an end.
    assert plain["counts"] == [0, 0]
    drafted, right = speculative["counts"]
    assert drafted / 2 < right <= drafted
    assert max(plain["steps"]) == max(MOST)
    assert max(speculative["steps"]) < max(MOST) / 2
    # Drafting that costs too much has stopped, and none of its steps changed a token.
    dear, cheap = speculative["switched"]
    assert [of["tokens"] for of in (dear, cheap)] == [of["tokens"] for of in plain["switched"]]
    assert all(len(tokens) == SWITCHED for of in (dear, cheap) for tokens in of["tokens"])
    assert dear["told"][0].startswith("stops for up to 3 answers at once: 3.00 drafted tokens")
    assert cheap["told"][0].startswith("goes on for up to 3 answers at once: 3.00 drafted tokens")
