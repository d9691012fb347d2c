"""Finds and reads the files of the model and its adapters; raises BackendError where it can't."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vgate.config.model import Model as ModelConfig
from vgate.config.models import CheckpointError, adapters, check_model
from vgate.config.models.adapters import LORA_RANKS, Adapter
from vgate.config.models.checkpoint import check_files, json_object
from vgate.config.models.names import cached_snapshot
from vgate.engine.backends.base import BackendError, ReportPhase
from vgate.engine.backends.hub import fetch
from vgate.engine.backends.vllm.failures import is_cpu_build
from vgate.fit import FitError, read_checkpoint
from vgate.fit.hub import from_hub

# Formats whose scales, unless they are for blocks, have kernels for GPUs only (vllm/_custom_ops.py,
# scaled_fp8_quant).
_GPU_FORMATS = frozenset({"fp8", "modelopt"})
# Formats that a plugin brings to vLLM: its module, which bin/vgate and pip install by the format's
# name.
_PLUGINS = {"bitsandbytes": "vllm_bnb_plugin", "gguf": "vllm_gguf_plugin"}
# What families call the number of their layers that draft (vllm/config/speculative.py), and the
# layers: those of a module of its own, or after the last one.
_MTP_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
_MTP, _LAYER = re.compile(r"(^|\.)mtp\."), re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Most adapters in one batch; each takes GPU memory. The others wait in main memory.
_MAX_LORAS = 8


@contextmanager
def _for_the_launcher() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise BackendError(str(error)) from None


@_for_the_launcher()
def read_model_config(directory: Path) -> dict[str, Any]:
    """Return the model's config.json."""
    return json_object(directory / "config.json")


def weight_formats(model: ModelConfig, directory: Path | None) -> set[str]:
    """Return the names of the formats that a model's weights may have, as far as is known."""
    found = {model.quantization or ""}
    directory = directory or cached_snapshot(model.model_id, model.revision)
    with suppress(CheckpointError, OSError):
        if directory is not None:
            found.add(_method(json_object(directory / "config.json")))
    return found - {""}


def _method(document: dict[str, Any]) -> str:
    settings = document.get("quantization_config")
    return str(settings.get("quant_method") or "") if isinstance(settings, dict) else ""


def check_quantization(model: ModelConfig, directory: Path, document: dict[str, Any]) -> None:
    """Check that a checkpoint has a format that can be computed here."""
    settings, cpu = document.get("quantization_config") or {}, is_cpu_build()
    found = model.quantization or _method(document)
    if cpu and _method(document) in _GPU_FORMATS and not settings.get("weight_block_size"):
        raise BackendError(
            f"the checkpoint in {directory} is quantized with {_method(document)}, which vLLM "
            "can't compute on a CPU: serve it on a GPU, or take a version in AWQ or GPTQ or one "
            "that isn't quantized"
        )
    if cpu and found == "gguf":
        raise BackendError(
            "GGUF files can be computed on NVIDIA GPUs only: take the model's version with "
            "safetensors files, in AWQ or GPTQ if it has to be small"
        )
    if found in _PLUGINS and find_spec(_PLUGINS[found]) is None:
        raise BackendError(
            f"{found} weights need a plugin of vLLM, which is not installed here: set "
            f"model.quantization: {found} and start with bin/vgate, which installs it, or run pip "
            f"install 'vgate[{found}]'. AWQ and GPTQ need none, and are faster"
        )


def has_mtp(directory: Path, document: dict[str, Any]) -> bool:
    """Whether config.json names layers that draft tokens, and the weights have them.

    Versions in other formats often leave them out.
    """
    text = document.get("text_config")
    text = text if isinstance(text, dict) else document
    if not any(part.get(key) for part in (document, text) for key in _MTP_LAYERS):
        return False
    layers = int(text.get("num_hidden_layers") or 0)
    with suppress(FitError):
        names = read_checkpoint(str(directory), None, from_hub).tensors
        numbers = [int(found[1]) for name in names if (found := _LAYER.search(name))]
        return any(_MTP.search(name) for name in names) or max(numbers, default=0) >= layers > 0
    return False


def gguf_args(model: ModelConfig, directory: Path) -> dict[str, Any]:
    """Return vLLM's arguments for a GGUF file beside its base model's other files."""
    if model.quantization != "gguf":
        return {}
    (file,) = directory.glob("*.gguf")
    return {"model": str(file), "tokenizer": str(directory), "hf_config_path": str(directory)}


@_for_the_launcher()
def read_adapters(model: ModelConfig, document: dict[str, Any] | None = None) -> list[Adapter]:
    """Return the model's adapters, once checked against its config.json."""
    return adapters.read_adapters(model, document)


def lora_args(found: list[Adapter]) -> dict[str, Any]:
    """Return vLLM's arguments for the model's adapters."""
    if not found:
        return {}
    largest = max(adapter.rank for adapter in found)
    return {
        "enable_lora": True,
        "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= largest),
        "max_loras": min(len(found), _MAX_LORAS),
        # All stay loaded, so no step waits for a disk and a deleted file does no harm.
        "max_cpu_loras": len(found),
    }


@_for_the_launcher()
def local_directory(model: ModelConfig) -> Path | None:
    """Return the model's directory, once checked; None if it is a name of a model on the Hub."""
    return check_model(model)


@_for_the_launcher()
def model_directory(model: ModelConfig, report_phase: ReportPhase) -> Path:
    """Return the model's directory, once checked; download it first if it is a Hub name."""
    if (directory := local_directory(model)) is None:
        directory = fetch(model, report_phase)
        check_files(model, directory)
    return directory
