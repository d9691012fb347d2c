"""The LoRA adapters of a model on disk, and whether they fit it."""

from pathlib import Path
from typing import Any, NamedTuple

from vgate.config.model import LoraAdapter, Model
from vgate.config.models.checkpoint import check_whole, json_object, shapes
from vgate.config.models.names import expanded
from vgate.config.models.settings import CheckpointError

# Ranks that vLLM has kernels for (vllm/config/lora.py, MaxLoRARanks).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_WEIGHTS = "adapter_model.safetensors"
# They read the hidden state, so the adapter's first matrix has as many columns as that.
_READ_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_OTHER_PARTS = ("vision", "visual", "audio", "expert")


class Adapter(NamedTuple):
    """A LoRA adapter on disk; `rank` is the largest in it."""

    name: str
    directory: str
    rank: int


def read_adapters(model: Model, document: dict[str, Any] | None = None) -> list[Adapter]:
    """Return the model's adapters.

    Raises:
        CheckpointError: One can't be served, or was made for another model than that whose
            config.json `document` is.
    """
    return [_read(adapter, document or {}) for adapter in model.lora_adapters]


def _read(adapter: LoraAdapter, document: dict[str, Any]) -> Adapter:
    where = f"model.lora_adapters: `{adapter.name}`"
    directory = expanded(adapter.path)
    for name in ("adapter_config.json", _WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{where}: {directory} holds no adapter, it has no {name}")
    try:
        check_whole(directory, ["adapter_config.json", _WEIGHTS])
        config = json_object(directory / "adapter_config.json")
        _check_fits(directory, config, document)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise CheckpointError(f"{where}: {directory}/adapter_config.json has no rank, `r`")
    if max(ranks) > LORA_RANKS[-1]:
        raise CheckpointError(f"{where} has rank {max(ranks)}, the most is {LORA_RANKS[-1]}")
    return Adapter(adapter.name, str(directory.resolve()), max(ranks))


def _check_fits(directory: Path, config: dict[str, Any], document: dict[str, Any]) -> None:
    hidden = (document.get("text_config") or document).get("hidden_size")
    if not isinstance(hidden, int):
        return
    for name, shape in shapes(directory / _WEIGHTS).items():
        module = name.removesuffix(".lora_A.weight").rpartition(".")[2]
        other = any(part in name for part in _OTHER_PARTS)
        if module in _READ_HIDDEN and not other and len(shape) == 2 and shape[1] != hidden:
            base = config.get("base_model_name_or_path") or "which its authors name"
            raise CheckpointError(
                f"{directory} was made for another model ({base}): its {module} reads {shape[1]} "
                f"values, this model's hidden state has {hidden}"
            )
