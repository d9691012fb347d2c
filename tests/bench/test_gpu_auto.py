"""The bench of `auto`, on the simulated engine: what it records of starts that serve and fail."""

import json
from pathlib import Path

import pytest

from bench.gpu_auto import main


def test_a_start_that_serves_and_one_that_says_why_not(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "auto.json"
    assert main([str(tiny_model_dir), "--dry-run", "--out", str(out)]) == 0
    (start,) = json.loads(out.read_bytes())
    assert (start["context"], start["refused"], start["problem"]) == (2048, "", "")
    assert "context 2048 tokens" in start["chosen"]
    assert start["foreseen"].startswith(f"{tiny_model_dir}: context about 4,096")
    assert "chosen: " in capsys.readouterr().out
    # That is no model: V-Gate ends with a sentence.
    assert main(["no/such:model", "--memory", "1", "--out", str(out)]) == 0
    (start,) = json.loads(out.read_bytes())
    assert "Ollama" in start["refused"]
