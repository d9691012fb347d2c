"""From our configuration to vLLM's: environment, arguments, files, and what to say of refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from vgate.config import Config
from vgate.config.schema import MIB
from vgate.config.schema import Model as ModelConfig
from vgate.engine.backends.base import BackendError, ReportPhase

# Formats that vLLM must find by itself: naming them would force their slow kernels (on an RTX 3060
# "awq" gave 204 tok/s against 1,146 with Marlin, which vLLM picks where it can).
_DETECTED_FORMATS = frozenset({"awq", "gptq"})
# vLLM's arguments that have a setting of their own, without which the frontends would not know.
_OWN_SETTINGS = {
    "model": "model.model_id",
    "served_model_name": "model.served_model_name",
    "revision": "model.revision",
    "max_model_len": "model.max_model_len",
    "max_num_seqs": "batch.max_batch_size",
    "gpu_memory_utilization": "model.gpu_memory_utilization",
    "tensor_parallel_size": "model.tensor_parallel_size",
    "pipeline_parallel_size": "model.pipeline_parallel_size",
    "dtype": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
}
_CPU_KV_CACHE_SHARE = 0.25
_CPU_KV_CACHE_MIN_BYTES = 64 * MIB
_FLOAT32_BYTES = 4
_SEEDS = 2**31
# Weights in formats that vLLM doesn't load, or a second copy of those that it does.
_NOT_DOWNLOADED = ["*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*"]
# What vLLM says when memory is short that may be free at the next try.
_MEMORY_TAKEN = ("out of memory", "free memory on device", "available memory on node")


def prepare_environment(model: ModelConfig) -> None:
    """Set what vLLM and torch read at import. A variable that the operator set stays.

    Raises:
        BackendError: The model is a directory that doesn't exist; said before the slow import.
    """
    defaults = {
        "VLLM_CONFIGURE_LOGGING": "0",  # its lines come out in our shape
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    if workers == 1 and model.distributed_executor_backend is None:
        # The worker runs in this process: its loop needs no second process to talk to.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if _local_directory(model) is not None:
        defaults["HF_HUB_OFFLINE"] = "1"
    if _is_cpu_build():
        # One core is left for the frontends. With as many threads as cores the two sides take
        # turns waiting for each other, and decoding collapses.
        defaults["OMP_NUM_THREADS"] = str(max(1, (len(os.sched_getaffinity(0)) - 1) // workers))
        if workers > 1:
            # vLLM binds each worker to a NUMA node of its own, and refuses to start without one.
            defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if model.engine_args.get("enforce_eager", True):
            # Nothing is compiled then; without a C++ compiler trying to would fail.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
        if model.distributed_executor_backend != "ray":
            defaults["VLLM_HOST_IP"] = "127.0.0.1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_config(config: Config, report_phase: ReportPhase) -> tuple[Any, str]:
    """Return vLLM's configuration and the model's local directory.

    Raises:
        BackendError: vLLM refuses the configuration, or the model can't be had.
    """
    from vllm import EngineArgs

    _check_engine_args(config.model, {field.name for field in dataclasses.fields(EngineArgs)})
    directory = _model_directory(config.model, report_phase)
    report_phase("reading the model's configuration")
    document = _read_model_config(directory)
    _check_quantization(config.model, directory, document)
    try:
        vllm_config = EngineArgs(**_engine_args(config, directory, document)).create_engine_config()
    except Exception as error:
        raise BackendError(start_failure(error, config)) from error
    runner = "pooling" if config.model.task == "embed" else "generate"
    if vllm_config.model_config.runner_type != runner:
        message = f"{config.model.model_id} can't {config.model.task} text"
        raise BackendError(message)
    return vllm_config, directory


def is_permanent(error: BaseException) -> bool:
    """Memory may be free again at the next try; a wrong model or option stays wrong."""
    text = str(error).lower()
    return not any(phrase in text for phrase in _MEMORY_TAKEN)


def start_failure(error: BaseException, config: Config) -> str:
    """Say why vLLM did not start and what to do about it, where that is known."""
    text = _problem(error, config.model)
    too_long = re.search(
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)", text
    )
    if too_long:
        asked, possible = too_long.groups()
        return (
            f"model.max_model_len is {asked}, but the model's own context is {possible} tokens: "
            "set it to that or less"
        )
    if not is_permanent(error) and not _is_cpu_build():
        return (
            f"{text}\nThe GPU's memory does not hold the model: free it of other "
            "programs, lower model.max_model_len, or serve a smaller or quantized model. If "
            "memory is left over, raise model.gpu_memory_utilization."
        )
    if "KV cache" in text:
        memory = (
            "model.engine_args.kv_cache_memory_bytes"
            if _is_cpu_build()
            else "model.gpu_memory_utilization"
        )
        return f"{text}\nLower model.max_model_len or batch.max_batch_size, or raise {memory}."
    return f"vLLM can't serve {config.model.model_id}: {text}"


def _problem(error: BaseException, model: ModelConfig) -> str:
    """Return vLLM's own words, without the frame that pydantic puts around them."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return _first_paragraph(error)
    first = error.errors()[0]
    text = first["msg"].removeprefix("Value error, ").strip().split("\n\n", 1)[0]
    if first["type"] == "value_error":
        return text
    name = ".".join(map(str, first["loc"]))
    if name not in model.engine_args:
        # vLLM's sections leave out what its arguments are prefixed with: kv_cache_dtype is
        # cache_dtype there.
        name = next((key for key in model.engine_args if key.endswith(name)), name)
    where = f"model.engine_args.{name}" if name in model.engine_args else name
    return f"{where}: {text}, got {first['input']!r}"


def _first_paragraph(error: BaseException) -> str:
    return str(error).strip().split("\n\n", 1)[0] or type(error).__name__


def _is_cpu_build() -> bool:
    try:
        return "cpu" in importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False


def _check_engine_args(model: ModelConfig, known: set[str]) -> None:
    for name in model.engine_args:
        if name in _OWN_SETTINGS:
            message = f"model.engine_args.{name}: set {_OWN_SETTINGS[name]} instead"
            raise BackendError(message)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            message = f"model.engine_args.{name}: vLLM has no such argument{hint}"
            raise BackendError(message)


def _engine_args(config: Config, directory: str, document: dict[str, Any]) -> dict[str, Any]:
    model = config.model
    arguments: dict[str, Any] = {
        "model": directory,
        "served_model_name": model.served_names,
        "max_model_len": model.max_model_len,
        "max_num_seqs": config.batch.max_batch_size,
        "gpu_memory_utilization": model.gpu_memory_utilization,
        "tensor_parallel_size": model.tensor_parallel_size,
        "pipeline_parallel_size": model.pipeline_parallel_size,
        "dtype": model.dtype,
        "trust_remote_code": model.trust_remote_code,
        # vLLM's default is 0: after every start, and on every replica, requests without a seed
        # would draw the same numbers.
        "seed": secrets.randbelow(_SEEDS),
        "use_tqdm_on_load": False,
        "runner": "pooling" if model.task == "embed" else "auto",
    }
    if model.distributed_executor_backend is not None:
        arguments["distributed_executor_backend"] = model.distributed_executor_backend
    if model.quantization is not None and model.quantization not in _DETECTED_FORMATS:
        arguments["quantization"] = model.quantization
    if _is_cpu_build():
        # vLLM's default takes 92% of the machine's memory, which frontends and others need.
        arguments["kv_cache_memory_bytes"] = _cpu_kv_cache_bytes(config, document)
        arguments["enforce_eager"] = True
    return arguments | model.engine_args


def _cpu_kv_cache_bytes(config: Config, document: dict[str, Any]) -> int:
    """Return room for a full batch of full contexts, within a share of the free memory.

    It is the room of one worker; each of them has its part of the model.
    """
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

    # What vLLM will compare it with: it counts reclaimable memory and a container's limit.
    free = get_memory_node_info(get_allowed_cpu_list()[0].numa_node).available_memory
    model = config.model
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    share: int = int(free * _CPU_KV_CACHE_SHARE) // workers
    try:
        text = document.get("text_config") or document
        heads = text["num_attention_heads"]
        head_size = text.get("head_dim") or text["hidden_size"] // heads
        kv_heads = text.get("num_key_value_heads") or heads
        per_token: int = 2 * text["num_hidden_layers"] * kv_heads * head_size * _FLOAT32_BYTES
    except (AttributeError, KeyError, TypeError):
        # An architecture that names its parts in another way: take the share.
        return max(_CPU_KV_CACHE_MIN_BYTES, share)
    full = config.batch.max_batch_size * model.max_model_len * per_token
    return max(_CPU_KV_CACHE_MIN_BYTES, min(full, share))


def _read_model_config(directory: str) -> dict[str, Any]:
    path = Path(directory, "config.json")
    if not path.is_file():
        message = f"model.model_id: {directory} holds no model, it has no config.json"
        raise BackendError(message)
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        raise BackendError(message) from error
    if not isinstance(document, dict):
        message = f"cannot read {path}: it holds no JSON object"
        raise BackendError(message)
    return document


def _local_directory(model: ModelConfig) -> Path | None:
    """Return the model's directory; None if it is the name of a model on the Hub.

    Raises:
        BackendError: It is a directory by its form, and there is none.
    """
    path = Path(model.model_id)
    with contextlib.suppress(RuntimeError):  # a "~" without a home directory
        path = path.expanduser()
    if path.is_dir():
        return path.resolve()
    # A Hub name is NAME or OWNER/NAME.
    if path.exists() or model.model_id.startswith((".", "/", "~")) or model.model_id.count("/") > 1:
        message = f"model.model_id: there is no directory {model.model_id}"
        raise BackendError(message)
    return None


def _model_directory(model: ModelConfig, report_phase: ReportPhase) -> str:
    """Return the model's files on disk, downloading them first where they aren't.

    Raises:
        BackendError: There are no such files, or the download failed.
    """
    if (directory := _local_directory(model)) is not None:
        return str(directory)
    report_phase(f"fetching {model.model_id}")
    return _download(model)


def _download(model: ModelConfig) -> str:
    from huggingface_hub import errors, snapshot_download

    permanent = (
        errors.HFValidationError,
        errors.OfflineModeIsEnabled,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
    )
    try:
        return snapshot_download(
            model.model_id, revision=model.revision, ignore_patterns=_NOT_DOWNLOADED
        )
    except Exception as error:
        message = (
            f"cannot fetch the model {model.model_id}: {_first_paragraph(error)}\n"
            "Set model.model_id to a directory with the model, or check the name and the network."
        )
        raise BackendError(message, permanent=isinstance(error, permanent)) from error


def _check_quantization(model: ModelConfig, directory: str, document: dict[str, Any]) -> None:
    if model.quantization not in _DETECTED_FORMATS:
        return
    found = (document.get("quantization_config") or {}).get("quant_method")
    if found != model.quantization:
        message = (
            f"model.quantization is {model.quantization!r}, but the checkpoint in {directory} "
            f"is {found or 'not quantized'}; leave model.quantization empty to use what it is"
        )
        raise BackendError(message)
