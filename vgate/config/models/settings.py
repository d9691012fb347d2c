"""What a model's config.json says against its settings, and against what the pinned vLLM runs."""

import difflib
import os
from pathlib import Path
from typing import Any

from vgate.config.model import Model
from vgate.config.models.known import known_vllm

# Formats whose kernels vLLM chooses: Marlin's where the card has them, which are several times as
# fast as the formats' own (an RTX 3060 gave 1,146 tok/s instead of 204). So these are compared with
# the checkpoint and not passed on; names of kernels mean their format.
DETECTED_FORMATS = {
    **dict.fromkeys(("awq", "awq_marlin", "auto_awq"), "awq"),
    **dict.fromkeys(("gptq", "gptq_marlin", "auto_gptq"), "gptq"),
}
# vLLM's arguments that are settings of ours, because other processes have to know them too.
SAME_SETTINGS = {
    "max_model_len": "model.max_model_len",
    "max_num_seqs": "batch.max_num_seqs",
    "gpu_memory_utilization": "model.gpu_memory_utilization",
    "tensor_parallel_size": "model.tensor_parallel_size",
    "pipeline_parallel_size": "model.pipeline_parallel_size",
    "dtype": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
}
# And those that follow from one of our settings.
_OWN_SETTINGS = {
    **SAME_SETTINGS,
    "model": "model.model_id",
    "served_model_name": "model.served_model_name",
    "revision": "model.revision",
    "enable_lora": "model.lora_adapters",
}
# With another of these, config.json is not all that vLLM goes by.
_OTHER_SOURCES = ("config_format", "hf_config_path", "hf_overrides", "model_impl")
# Keys of a context's length. vLLM takes the smallest, and has rules of its own for some of them
# (vllm/transformers_utils/model_arch_config_convertor.py, derive_max_model_len_and_key).
_LENGTHS = (
    "max_position_embeddings",
    *("n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)


class CheckpointError(Exception):
    """The model can't be served from its files: why, and what to do."""


def check_engine_args(model: Model) -> None:
    """Raise CheckpointError if vLLM has no such argument, or if it is a setting of ours."""
    known = known_vllm().arguments
    for name in model.engine_args:
        where = f"model.engine_args.{name}"
        if name in _OWN_SETTINGS:
            raise CheckpointError(f"{where}: set {_OWN_SETTINGS[name]} instead")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {_OWN_SETTINGS.get(close[0], close[0])}?" if close else ""
            raise CheckpointError(f"{where}: vLLM has no such argument{hint}")
    tokenizer = model.engine_args.get("tokenizer")
    if tokenizer and not Path(tokenizer).is_dir():
        # Frontends read its files.
        raise CheckpointError(f"model.engine_args.tokenizer: there is no directory {tokenizer}")


def check_config(model: Model, directory: Path, document: dict[str, Any]) -> None:
    """Raise CheckpointError if a model can't run as its config.json describes it."""
    _check_quantization(model, directory, document)
    if not any(name in model.engine_args for name in _OTHER_SOURCES):
        _check_architecture(model, document)
        _check_task(model, document)
        _check_length(model, document)


def _check_quantization(model: Model, directory: Path, document: dict[str, Any]) -> None:
    settings = document.get("quantization_config") or {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"{directory}/config.json: quantization_config must be an object")
    found = settings.get("quant_method")
    wanted = DETECTED_FORMATS.get(model.quantization or "")
    if wanted is not None and found != wanted:
        raise CheckpointError(
            f"model.quantization is {model.quantization!r}, but the checkpoint in {directory} "
            f"is {found or 'not quantized'}; leave model.quantization empty to use its own"
        )


def _check_architecture(model: Model, document: dict[str, Any]) -> None:
    names = document.get("architectures")
    # A model may bring its code along.
    if not isinstance(names, list) or not names or "auto_map" in document:
        return
    if not any(known_vllm().runs(str(name)) for name in names):
        raise CheckpointError(
            f"vLLM {known_vllm().vllm} can't serve {model.model_id}: it can't run its "
            f"architecture, {', '.join(map(str, names))}: serve another model, or update V-Gate "
            "if this one is new"
        )


def _check_task(model: Model, document: dict[str, Any]) -> None:
    names = document.get("architectures")
    if not isinstance(names, list) or not names or "auto_map" in document:
        return
    classifies = all(str(name).endswith("ForSequenceClassification") for name in names)
    if classifies and model.task != "classify":
        raise CheckpointError(
            f"{model.model_id} ({names[0]}) classifies or ranks text: set task: classify"
        )
    if model.task == "classify" and all(str(name).endswith("ForCausalLM") for name in names):
        raise CheckpointError(
            f"{model.model_id} ({names[0]}) generates text, and has no task: classify: serve its "
            "version for sequence classification, or set model.engine_args.hf_overrides as the "
            "model's page says for vLLM"
        )


def has_plain_context(document: dict[str, Any], *kinds: str) -> bool:
    """Whether the context is `max_position_embeddings`; vLLM derives others in ways of its own.

    `kinds` are those of scaled positions, beside "default", that count as plain.
    """
    found = {key: document[key] for key in _LENGTHS if document.get(key) is not None}
    scaling = document.get("rope_scaling") or document.get("rope_parameters") or {}
    return (
        found.keys() == {"max_position_embeddings"}
        and isinstance(found["max_position_embeddings"], int)
        and isinstance(scaling, dict)
        and not any(isinstance(value, dict) for value in scaling.values())
        and scaling.get("rope_type", scaling.get("type", "default")) in ("default", *kinds)
    )


def _check_length(model: Model, document: dict[str, Any]) -> None:
    """Check the simple case."""
    if model.max_model_len == "auto":
        return
    architectures = document.get("architectures") or [""]
    simple = has_plain_context(document) and str(architectures[0]).endswith("ForCausalLM")
    longer = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in {"", "0"}
    if simple and not longer and model.max_model_len > document["max_position_embeddings"]:
        raise CheckpointError(
            f"model.max_model_len is {model.max_model_len}, but the model's own context is "
            f"{document['max_position_embeddings']} tokens: set it to that or less"
        )
