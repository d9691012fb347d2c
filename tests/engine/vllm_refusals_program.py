"""Starts the vLLM backend on models that it can't serve; writes what it says of each:

python -m tests.engine.vllm_refusals_program MODEL WORK REPORT
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from vgate.config import Config
from vgate.config.model import Model
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.environment import create, prepare_environment

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
# By name: changes of config.json, and of the configuration.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "architecture": ({"architectures": ["FooForCausalLM"]}, {}),
    "model_type": ({"model_type": "foo"}, {}),
    "no_model_type": ({"model_type": None}, {}),
    "code": ({"model_type": "foo", "auto_map": {"AutoConfig": "foo.Foo"}}, {}),
    "too_long": ({}, {"max_model_len": 5000}),
    "generate": (
        {"architectures": ["BertModel"], "model_type": "bert"},
        {"task": "generate"},
    ),
    "quantization": ({"quantization_config": {"quant_method": "foo"}}, {}),
    "quantization_no_object": ({"quantization_config": "awq"}, {}),
    "gpu_quantization": ({"quantization_config": {"quant_method": "fp8"}}, {}),
    "quantization_type": ({"quantization_config": GPTQ}, {}),
    "quantization_setting": ({}, {"quantization": "foo"}),
    "tokenizer": ({}, {}),
    "tokenizer_argument": ({}, {"engine_args": {"tokenizer": "nobody/nothing"}}),
    "hub": ({}, {"model_id": "nobody/nothing-here"}),
    "kv_cache": ({}, {"max_model_len": 4096, "engine_args": {"kv_cache_memory_bytes": 150_000}}),
}


def start(model: Path, directory: Path, name: str) -> dict[str, Any]:
    """Start the backend on a damaged copy of a model."""
    changes, settings = CASES[name]
    shutil.copytree(model, directory)
    config = directory / "config.json"
    document = {**json.loads(config.read_bytes()), **changes}
    config.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    if name == "tokenizer":
        (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    settings = {"model_id": str(directory), "max_model_len": 256, "dtype": "float32", **settings}
    phases: list[str] = []
    try:
        create(Config(model=Model(**settings)), phases.append)
    except BackendError as error:
        return {"text": str(error), "permanent": error.permanent, "phases": phases}
    return {"text": "", "phases": phases}


def main() -> None:
    model, work, report = map(Path, sys.argv[1:])
    prepare_environment(Model(model_id=str(model)))
    import vgate.engine.backends.vllm.backend  # noqa: F401 - once for all cases

    for name in CASES:
        # One engine a process.
        if not (pid := os.fork()):
            found = start(model, work / name, name)
            (work / f"{name}.json").write_text(json.dumps(found))
            os._exit(0)
        os.waitpid(pid, 0)
    found = {name: json.loads((work / f"{name}.json").read_bytes()) for name in CASES}
    report.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
