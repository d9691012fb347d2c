"""Finds and reads the files of the model and its adapters; raises BackendError where it can't."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from vgate.config.checkpoint import (
    CheckpointError,
    check_files,
    check_whole,
    expanded,
    find_model,
)
from vgate.config.schema import LoraAdapter
from vgate.config.schema import Model as ModelConfig
from vgate.engine.backends.base import BackendError, ReportPhase
from vgate.engine.backends.vllm.failures import first_paragraph, is_cpu_build

# Formats that vLLM must detect itself: naming them forces their slow kernels (on an RTX 3060
# "awq" gave 204 tok/s against 1,146 with Marlin, which vLLM picks where it can).
DETECTED_FORMATS = frozenset({"awq", "gptq"})
# Formats whose scales, unless they are for blocks, have kernels for GPUs only (vllm/_custom_ops.py,
# scaled_fp8_quant).
_GPU_FORMATS = frozenset({"fp8", "modelopt"})
# Ranks that vLLM has kernels for (vllm/config/lora.py, MaxLoRARanks).
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Most adapters in one batch; each takes GPU memory. The others wait in main memory.
_MAX_LORAS = 8
# Weights in formats that vLLM doesn't load, or second copies.
_NOT_DOWNLOADED = ["*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*"]


def read_model_config(directory: Path) -> dict[str, Any]:
    """Return the model's config.json."""
    return _read_json(directory / "config.json")


def check_quantization(model: ModelConfig, directory: Path, document: dict[str, Any]) -> None:
    """Check that the checkpoint has the configured format, and one that can be computed here."""
    settings = document.get("quantization_config") or {}
    if not isinstance(settings, dict):
        raise BackendError(f"{directory}/config.json: quantization_config must be an object")
    found = settings.get("quant_method")
    if model.quantization in DETECTED_FORMATS and found != model.quantization:
        raise BackendError(
            f"model.quantization is {model.quantization!r}, but the checkpoint in {directory} "
            f"is {found or 'not quantized'}; leave model.quantization empty to use its own"
        )
    if is_cpu_build() and found in _GPU_FORMATS and not settings.get("weight_block_size"):
        raise BackendError(
            f"the checkpoint in {directory} is quantized with {found}, which vLLM can't compute on "
            "a CPU: serve it on a GPU, or take a version in AWQ or GPTQ or one that isn't quantized"
        )


class Adapter(NamedTuple):
    """A LoRA adapter on disk; `rank` is the largest in it."""

    name: str
    directory: str
    rank: int


def read_adapters(model: ModelConfig) -> list[Adapter]:
    """Return the model's adapters."""
    return [_read_adapter(adapter) for adapter in model.lora_adapters]


def _read_adapter(adapter: LoraAdapter) -> Adapter:
    where = f"model.lora_adapters: `{adapter.name}`"
    directory = expanded(adapter.path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (directory / name).is_file():
            raise BackendError(f"{where}: {directory} holds no adapter, it has no {name}")
    try:
        check_whole(directory, ["adapter_config.json", "adapter_model.safetensors"])
    except CheckpointError as error:
        raise BackendError(f"{where}: {error}") from None
    document = _read_json(directory / "adapter_config.json")
    ranks = [document.get("r"), *(document.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise BackendError(f"{where}: {directory}/adapter_config.json has no rank, `r`")
    return Adapter(adapter.name, str(directory.resolve()), max(ranks))


def lora_args(model: ModelConfig) -> dict[str, Any]:
    """Return vLLM's arguments for the model's adapters."""
    adapters = read_adapters(model)
    if not adapters:
        return {}
    largest = max(adapters, key=lambda adapter: adapter.rank)
    rank = next((rank for rank in _LORA_RANKS if rank >= largest.rank), None)
    if rank is None:
        raise BackendError(
            f"model.lora_adapters: `{largest.name}` has rank {largest.rank}, "
            f"the most is {_LORA_RANKS[-1]}"
        )
    return {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": min(len(adapters), _MAX_LORAS),
        # All stay loaded, so no step waits for a disk and a deleted file does no harm.
        "max_cpu_loras": len(adapters),
    }


def local_directory(model: ModelConfig) -> Path | None:
    """Return the model's directory, once checked; None if it is a name of a model on the Hub."""
    try:
        return find_model(model)
    except CheckpointError as error:
        raise BackendError(str(error)) from None


def model_directory(model: ModelConfig, report_phase: ReportPhase) -> Path:
    """Return the model's directory, once checked; download it first if it is a Hub name."""
    if (directory := local_directory(model)) is None:
        directory = _fetched(model, report_phase)
        try:
            check_files(model, directory)
        except CheckpointError as error:
            raise BackendError(str(error)) from None
    return directory


def _fetched(model: ModelConfig, report_phase: ReportPhase) -> Path:
    report_phase(f"fetching {model.model_id}")
    from huggingface_hub import errors, snapshot_download

    permanent = (
        errors.HFValidationError,
        errors.OfflineModeIsEnabled,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
    )
    try:
        return Path(
            snapshot_download(
                model.model_id, revision=model.revision, ignore_patterns=_NOT_DOWNLOADED
            )
        )
    except Exception as error:
        # Without a copy on disk, being offline is the cause of another error.
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        reason = "it is not in the cache, and HF_HUB_OFFLINE is set" if offline else None
        raise BackendError(
            f"cannot fetch the model {model.model_id}: {reason or first_paragraph(error)}\n"
            "Set model.model_id to a directory with the model, or check the name and the network.",
            permanent=offline or isinstance(error, permanent),
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackendError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise BackendError(f"cannot read {path}: it holds no JSON object")
    return document
