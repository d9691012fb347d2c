"""The record of an engine's steps: what makes it and what is read from it, without an engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import hooks
from bench.compare.models import Models
from bench.gpu import dummy_model, idle_measures, read_steps

# Stands for vLLM's module: a worker whose methods do something else than time.
WORKER = """
class Worker:
    def execute_model(self, work, *, more):
        return work + more
    def sample_tokens(self):
        raise ValueError("kept")
"""


def test_gaps_are_what_no_step_covers() -> None:
    # Steps of 10 ms; 1 ms of nothing after the first, the third given while the second ran.
    idle = idle_measures([(0.0, 0.010), (0.011, 0.021), (0.020, 0.031)])
    assert idle["steps"] == 3
    assert idle["idle_share"] == pytest.approx(1 / 31)
    assert idle["idle_gap_us.p99"] == pytest.approx(1000)
    assert idle_measures([(0.0, 1.0)]) == {}


def test_a_long_step_covers_those_within_it() -> None:
    idle = idle_measures([(0.0, 1.0), (0.1, 0.2), (1.5, 2.0)])
    assert idle["idle_share"] == pytest.approx(0.25)


def test_only_whole_lines_of_the_span_are_read(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    (tmp_path / "steps.1").write_text("1.0 2.0\n9.0 9.5\n")
    (tmp_path / "steps.2").write_text("0.5 0.6\n3.0 4.0\n4.5 ")
    assert read_steps(path, 0.9, 5.0) == [(1.0, 2.0), (3.0, 4.0)]


def test_the_hook_records_the_worker_and_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vllm" / "v1" / "worker"
    package.mkdir(parents=True)
    for directory in (package, package.parent, package.parent.parent):
        (directory / "__init__.py").touch()
    (package / "gpu_worker.py").write_text(WORKER)
    # Without torch, so that the clock is the CPU's whatever this machine has.
    (tmp_path / "torch.py").write_text(
        "class cuda:\n    @staticmethod\n    def is_available():\n        return False\n"
    )
    code = (
        "from vllm.v1.worker.gpu_worker import Worker\n"
        "print(Worker().execute_model(1, more=2))\n"
        "try:\n    Worker().sample_tokens()\n"
        "except ValueError as error:\n    print(error)\n"
    )
    steps = tmp_path / "steps"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = hooks.environment({"ENGINE_STEPS_FILE": str(steps)})
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "kept"]
    found = read_steps(steps, 0, float("inf"))
    assert len(found) == 2
    assert all(start <= end for start, end in found)


def test_the_dummy_model_has_the_shape_and_a_vocabulary_that_fits(tmp_path: Path) -> None:
    directory = dummy_model(Models(tmp_path), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (28, 1536)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert max(vocabulary.values()) < config["vocab_size"]
    assert not list(directory.glob("*.safetensors"))
