"""From our configuration to vLLM's arguments, configuration and executor."""

import dataclasses
import difflib
import secrets
from operator import attrgetter
from pathlib import Path
from typing import Any

from vllm import EngineArgs
from vllm.config import StructuredOutputsConfig
from vllm.usage.usage_lib import UsageContext
from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info
from vllm.v1.executor import Executor

from vgate.config import Config
from vgate.config.runtime import VLLM
from vgate.config.schema import MIB
from vgate.config.schema import Model as ModelConfig
from vgate.engine.backends.base import BackendError, ReportPhase
from vgate.engine.backends.vllm.failures import is_cpu_build, start_failure
from vgate.engine.backends.vllm.files import (
    DETECTED_FORMATS,
    check_quantization,
    lora_args,
    model_directory,
    read_model_config,
)
from vgate.engine.backends.vllm.lean_scheduler import lean_scheduler

# vLLM's arguments that are settings of ours, because other processes have to know them too.
_SAME_SETTINGS = {
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
    **_SAME_SETTINGS,
    "model": "model.model_id",
    "served_model_name": "model.served_model_name",
    "revision": "model.revision",
    "enable_lora": "model.lora_adapters",
}
# JSON without whitespace between its parts: where it is allowed, small models sometimes write
# nothing else until they run out of tokens. The backend is fixed: with "auto" the first request
# chooses it for all, and a keyword that it doesn't know would be ignored.
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}
_CPU_KV_CACHE_SHARE = 0.25
_CPU_KV_CACHE_SEQS = 32
_CPU_KV_CACHE_MIN_BYTES = 64 * MIB
_FLOAT32_BYTES = 4
_SEEDS = 2**31
# vLLM's max_logprobs for "as many as there are tokens".
_ALL_LOGPROBS = -1


def engine_config(config: Config, report_phase: ReportPhase) -> tuple[Any, Path]:
    """Return vLLM's configuration and the model's local directory; fetch the model if needed."""
    _check_engine_args(config.model, {field.name for field in dataclasses.fields(EngineArgs)})
    directory = model_directory(config.model, report_phase)
    report_phase("reading the model's configuration")
    document = read_model_config(directory)
    check_quantization(config.model, directory, document)
    arguments = _engine_args(config, directory, document) | lora_args(config.model)
    arguments |= config.model.engine_args
    if config.model.lora_adapters and is_cpu_build():
        # vLLM's CPU kernels (vllm/lora/ops/torch_ops) use the last slot for sequences without an
        # adapter. It must stay empty, or these would get another sequence's adapter.
        arguments["max_loras"] = len(config.model.lora_adapters) + 1
        arguments["max_cpu_loras"] = arguments["max_loras"]
    try:
        structured = _structured_outputs(arguments.get("structured_outputs_config"))
        arguments["structured_outputs_config"] = structured
        arguments["max_num_seqs"] = _max_num_seqs(config, arguments)
        vllm_config = EngineArgs(**arguments).create_engine_config()
    except Exception as error:
        raise BackendError(start_failure(error, config)) from error
    _check_task(config.model, vllm_config.model_config)
    scheduler = vllm_config.scheduler_config
    scheduler.scheduler_cls = lean_scheduler(scheduler) or scheduler.scheduler_cls
    return vllm_config, directory


def _check_task(model: ModelConfig, found: Any) -> None:
    """Check that vLLM would use a model as it is configured."""
    architecture = ", ".join(found.architectures)
    if model.task == "generate" and found.runner_type != "generate":
        raise BackendError(
            f"model {model.model_id} ({architecture}) doesn't generate text: set task: embed if it "
            "is an embedding model"
        )


def reporting_executor(vllm_config: Any, report_phase: ReportPhase) -> Any:
    """Return vLLM's executor class, made to report the phases of its start."""
    base: Any = Executor.get_class(vllm_config)

    class ReportingExecutor(base):  # type: ignore[misc]
        def _init_executor(self) -> None:
            report_phase("loading weights")
            super()._init_executor()

        def determine_available_memory(self) -> Any:
            report_phase("measuring memory")
            return super().determine_available_memory()

        def initialize_from_config(self, kv_cache_configs: Any) -> None:
            report_phase("allocating the KV cache")
            super().initialize_from_config(kv_cache_configs)

        def compile_or_warm_up_model(self) -> None:
            report_phase("warming up")
            super().compile_or_warm_up_model()

    return ReportingExecutor


def model_facts(vllm_config: Any, max_num_seqs: int) -> dict[str, Any]:
    """Return the fields of `ModelInfo` that vLLM has determined while it loaded the model."""
    model, cache = vllm_config.model_config, vllm_config.cache_config
    vocab_size = model.get_vocab_size()
    unlimited = model.max_logprobs == _ALL_LOGPROBS
    return {
        "max_model_len": model.max_model_len,
        "max_num_seqs": max_num_seqs,
        # A model without attention has no KV cache that could overflow.
        "kv_cache_tokens": cache.kv_cache_size_tokens or max_num_seqs * model.max_model_len,
        "backend": VLLM,
        "kv_block_tokens": cache.block_size,
        "vocab_size": vocab_size,
        "max_logprobs": vocab_size if unlimited else model.max_logprobs,
    }


def _check_engine_args(model: ModelConfig, known: set[str]) -> None:
    for name in model.engine_args:
        if name in _OWN_SETTINGS:
            raise BackendError(f"model.engine_args.{name}: set {_OWN_SETTINGS[name]} instead")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BackendError(f"model.engine_args.{name}: vLLM has no such argument{hint}")
    tokenizer = model.engine_args.get("tokenizer")
    if tokenizer and not Path(tokenizer).is_dir():
        # Frontends read its files.
        raise BackendError(f"model.engine_args.tokenizer: there is no directory {tokenizer}")


def _engine_args(config: Config, directory: Path, document: dict[str, Any]) -> dict[str, Any]:
    model = config.model
    arguments: dict[str, Any] = {
        **{name: attrgetter(setting)(config) for name, setting in _SAME_SETTINGS.items()},
        "model": str(directory),
        "served_model_name": model.served_names,
        # With vLLM's default, 0, requests without a seed would draw the same numbers after every
        # start and on every replica.
        "seed": secrets.randbelow(_SEEDS),
        "use_tqdm_on_load": False,
        # A model that generates embeds too if it is told to, whether or not it was trained for it.
        "runner": "pooling" if model.task == "embed" else "auto",
    }
    if model.distributed_executor_backend is not None:
        arguments["distributed_executor_backend"] = model.distributed_executor_backend
    if model.quantization is not None and model.quantization not in DETECTED_FORMATS:
        arguments["quantization"] = model.quantization
    if is_cpu_build():
        # vLLM's default takes 92% of the machine's memory and leaves too little for the frontends.
        arguments["kv_cache_memory_bytes"] = _cpu_kv_cache_bytes(config, document)
        arguments["enforce_eager"] = True
        # For each chunk of a prompt vLLM rewinds the random generator, which torch's generators
        # for the CPU can't do: a request with a seed would end the engine
        # (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync).
        arguments["enable_chunked_prefill"] = False
    return arguments


def _max_num_seqs(config: Config, arguments: dict[str, Any]) -> int:
    """Return the most sequences at once; for "auto" as many as vLLM's own server would run."""
    given = config.batch.max_num_seqs
    if given != "auto":
        return given
    model = config.model
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    _, defaults = EngineArgs.get_batch_defaults(workers)
    usual: int = defaults[UsageContext.OPENAI_API_SERVER]
    # vLLM refuses more sequences than tokens in a step.
    return min(usual, arguments.get("max_num_batched_tokens") or usual)


def _structured_outputs(given: Any) -> Any:
    """Return vLLM's settings for grammars: the operator's, then ours."""
    if not isinstance(given, dict):
        given = {}
    backend = given.get("backend", _STRUCTURED_OUTPUTS["backend"])
    # The other backends refuse the setting.
    compact = {} if backend in {"xgrammar", "guidance"} else {"disable_any_whitespace": False}
    return StructuredOutputsConfig(**(_STRUCTURED_OUTPUTS | compact | given))


def _cpu_kv_cache_bytes(config: Config, document: dict[str, Any]) -> int:
    """Return one worker's KV cache for a full batch, at most a share of the free memory."""
    # vLLM compares the size with this, which respects reclaimable memory and container limits.
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
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        # The architecture names its dimensions differently: take the share.
        return max(_CPU_KV_CACHE_MIN_BYTES, share)
    sequences = config.batch.max_num_seqs
    if sequences == "auto":
        # Most never become as long as they may, and others need the memory, too.
        sequences = _CPU_KV_CACHE_SEQS
    full = sequences * model.max_model_len * per_token
    return max(_CPU_KV_CACHE_MIN_BYTES, min(full, share))
