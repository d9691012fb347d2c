"""Models that the real vLLM (CPU build) can't serve: what is said, before weights are loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.vllm_refusals_program import CASES
from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

WORDS = {
    "architecture": ["can't run its architecture, FooForCausalLM", "serve another model"],
    "model_type": ["doesn't know its model_type, foo", "serve another model"],
    "no_model_type": ["its config.json has no model_type", "copy the file"],
    "code": ["set model.trust_remote_code: true"],
    "too_long": ["model.max_model_len is 5000", "4096 tokens", "set it to that or less"],
    "generate": ["BertModel", "doesn't generate text", "set task: embed"],
    "quantization": ["doesn't know its quantization, foo", "take a version of it"],
    "quantization_no_object": ["quantization_config must be an object"],
    "gpu_quantization": ["fp8", "can't compute on a CPU", "take a version"],
    "quantization_type": ["torch.float32 is not supported", "set model.dtype to auto"],
    "quantization_setting": ["doesn't know its quantization, foo"],
    "tokenizer": ["the tokenizer in", "can't be read", "Fetch its files again"],
    "tokenizer_argument": ["model.engine_args.tokenizer: there is no directory nobody/nothing"],
    "hub": ["cannot fetch the model nobody/nothing-here", "HF_HUB_OFFLINE", "set model.model_id"],
    "kv_cache": [
        "4096 tokens, model.max_model_len, needs",
        "Set model.max_model_len to",
        "quantised",
    ],
}


@pytest.fixture(scope="module")
def report(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("refusals")
    path = work / "report.json"
    arguments = (str(tiny_model_dir), str(work), str(path))
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "cache")}
    run_program("tests.engine.vllm_refusals_program", *arguments, **variables)
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


@pytest.mark.parametrize("name", CASES)
def test_it_says_why_and_what_to_do(report: dict[str, Any], name: str) -> None:
    found = report[name]
    assert [word for word in WORDS[name] if word not in found["text"]] == [], found["text"]
    assert len(found["text"]) < 500
    assert found["text"].count("\n") <= 1
    assert found["permanent"]
    # How much memory is left, only loading tells.
    assert ("loading weights" in found["phases"]) is (name == "kv_cache")
