"""From our configuration to vLLM's arguments, configuration and executor."""

import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs
from vllm.config import StructuredOutputsConfig
from vllm.platforms import current_platform
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.utils.import_utils import import_pynvml
from vllm.v1.executor import Executor

from vgate.config import Config
from vgate.config.model import Model as ModelConfig
from vgate.config.model import TaskSetting
from vgate.config.models.settings import DETECTED_FORMATS, SAME_SETTINGS
from vgate.config.runtime import VLLM
from vgate.engine.backends import worker_log
from vgate.engine.backends.base import Allowance, BackendError, ReportPhase
from vgate.engine.backends.gpus import GpuMemory
from vgate.engine.backends.ray_cluster import join_cluster, shared_memory_of_workers
from vgate.engine.backends.vllm.cards.arguments import choose
from vgate.engine.backends.vllm.cards.card import Card, free_ram_bytes, wsl_kernel
from vgate.engine.backends.vllm.failures import config_error, is_cpu_build
from vgate.engine.backends.vllm.files import (
    check_quantization,
    gguf_args,
    has_mtp,
    lora_args,
    read_adapters,
    read_model_config,
)
from vgate.engine.backends.vllm.lean_scheduler import lean_scheduler
from vgate.engine.backends.vllm.sizing.start import Sizing
from vgate.log import Log
from vgate.wire.parameters import Classes

# JSON without whitespace between its parts: where it is allowed, small models sometimes write
# nothing else until they run out of tokens. The backend is fixed: with "auto" the first request
# chooses it for all, and a keyword that it doesn't know would be ignored.
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}
_SEEDS = 2**31
# At most so many steps are scheduled ahead: one, or those of other stages.
_LAST_RUNS = 16
# vLLM's max_logprobs for "as many as there are tokens".
_ALL_LOGPROBS = -1

log = Log("vgate.engine.vllm")


def engine_config(
    config: Config, directory: Path, report_phase: ReportPhase, allowance: Allowance
) -> tuple[Any, Sizing]:
    """Return vLLM's configuration for a model in a local directory, and what was chosen."""
    report_phase("reading the model's configuration")
    document = read_model_config(directory)
    check_quantization(config.model, directory, document)
    arguments = _engine_args(config, directory) | lora_args(read_adapters(config.model, document))
    arguments |= config.model.engine_args
    if config.model.lora_adapters and is_cpu_build():
        # vLLM's CPU kernels (vllm/lora/ops/torch_ops) use the last slot for sequences without an
        # adapter. It must stay empty, or these would get another sequence's adapter.
        arguments["max_loras"] = len(config.model.lora_adapters) + 1
        arguments["max_cpu_loras"] = arguments["max_loras"]
    try:
        structured = _structured_outputs(arguments.get("structured_outputs_config"))
        arguments["structured_outputs_config"] = structured
        sizing = Sizing(config, arguments, directory, document, allowance)
        arguments = _for_the_card(config.model, sizing, directory, document)
        vllm_config = EngineArgs(**arguments).create_engine_config()
    except BackendError:
        raise
    except Exception as error:
        raise config_error(error, config) from error
    _check_task(config.model, vllm_config.model_config)
    if not vllm_config.cache_config.enable_prefix_caching and config.model.prefix_caching is None:
        log.info("prompts are computed anew each time: vLLM has no prefix cache for this model")
    if vllm_config.parallel_config.use_ray:
        join_cluster(vllm_config.parallel_config, current_platform.ray_device_key, report_phase)
    else:
        _use_lean_scheduler(vllm_config)
    sizing.watch(vllm_config)
    return vllm_config, sizing


def _use_lean_scheduler(vllm_config: Any) -> None:
    scheduler = vllm_config.scheduler_config
    scheduler.scheduler_cls = lean_scheduler(scheduler) or scheduler.scheduler_cls


def _check_task(model: ModelConfig, found: Any) -> None:
    """Check that vLLM would use a model as it is configured."""
    architecture = ", ".join(found.architectures)
    if model.task == "generate" and found.runner_type != "generate":
        raise BackendError(
            f"model {model.model_id} ({architecture}) doesn't generate text: set task: embed if it "
            "is an embedding model, or task: classify if it classifies or ranks text"
        )


@contextmanager
def one_group(processes: int) -> Iterator[None]:
    """Let vLLM make one gloo process group instead of many equal ones, if there is one process.

    vLLM makes one or two for each way to split a model. Each has a thread of gloo's, which wakes a
    hundred times a second even while nothing runs: 13 threads took 1.7 % of a core.
    """
    make = torch.distributed.new_group
    made: dict[tuple[int, ...], Any] = {}

    def new_group(ranks: Any = None, *arguments: Any, **named: Any) -> Any:
        if ranks is None or arguments or named.get("backend") != "gloo":
            return make(ranks, *arguments, **named)
        key = tuple(ranks)
        if key not in made:
            made[key] = make(ranks, **named)
        return made[key]

    if processes == 1:
        torch.distributed.new_group = new_group
    try:
        yield
    finally:
        torch.distributed.new_group = make


def reporting_executor(vllm_config: Any, report_phase: ReportPhase) -> Any:
    """Return vLLM's executor class, made to report the phases of its start."""
    base: Any = Executor.get_class(vllm_config)

    class ReportingExecutor(base):  # type: ignore[misc]
        def _init_executor(self) -> None:
            report_phase("loading weights")
            with one_group(vllm_config.parallel_config.world_size_across_dp):
                super()._init_executor()
            if self.uses_ray:
                # Its workers, which may be where there is no V-Gate, have the configuration now.
                _use_lean_scheduler(vllm_config)

        def determine_available_memory(self) -> Any:
            report_phase("measuring memory")
            return super().determine_available_memory()

        def initialize_from_config(self, kv_cache_configs: Any) -> None:
            report_phase("allocating the KV cache")
            super().initialize_from_config(kv_cache_configs)

        def compile_or_warm_up_model(self) -> None:
            report_phase("warming up")
            super().compile_or_warm_up_model()
            if is_cpu_build() and vllm_config.parallel_config.pipeline_parallel_size > 1:
                # The CPU's worker runs the model here only to compile it. Stages get their buffers
                # in such a run, and fail at their first step without (sync_and_gather_...).
                self.collective_rpc("execute_dummy_batch")

        def shutdown(self) -> None:
            left = shared_memory_of_workers(self) if self.uses_ray else ()
            super().shutdown()
            for path in left:
                with suppress(OSError):
                    path.unlink()

    if vllm_config.parallel_config.world_size == 1:
        return ReportingExecutor

    class RememberingExecutor(ReportingExecutor):
        """Keeps the last runs of the model, for `worker_failure`."""

        def _init_executor(self) -> None:
            self.last_runs: deque[Any] = deque(maxlen=_LAST_RUNS)
            with worker_log.kept(vllm_config.logging_config):
                super()._init_executor()

        def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
            run = super().execute_model(scheduler_output, non_block)
            self.last_runs.append(run)
            return run

    return RememberingExecutor


def model_facts(vllm_config: Any, max_num_seqs: int, task: TaskSetting) -> dict[str, Any]:
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
        "classes": _classes(model) if task == "classify" else None,
    }


def _classes(model: Any) -> Classes:
    config = model.hf_config
    names = getattr(config, "id2label", None) or {}
    tokenizer = cached_tokenizer_from_config(model)
    return Classes(
        [names.get(number) for number in range(config.num_labels)],
        token_types="token_type_ids" in getattr(tokenizer, "model_input_names", ()),
        joined=not model.use_sep_token,
    )


def _engine_args(config: Config, directory: Path) -> dict[str, Any]:
    model = config.model
    arguments: dict[str, Any] = {
        **{name: attrgetter(setting)(config) for name, setting in SAME_SETTINGS.items()},
        "model": str(directory),
        "served_model_name": model.served_names,
        # With vLLM's default, 0, requests without a seed would draw the same numbers after every
        # start and on every replica.
        "seed": secrets.randbelow(_SEEDS),
        "use_tqdm_on_load": False,
        # A model that generates embeds too if it is told to, whether or not it was trained for it.
        "runner": "auto" if model.task == "generate" else "pooling",
    }
    if model.distributed_executor_backend is not None:
        arguments["distributed_executor_backend"] = model.distributed_executor_backend
    if model.quantization is not None and model.quantization not in DETECTED_FORMATS:
        arguments["quantization"] = model.quantization
    arguments |= gguf_args(model, directory)
    if is_cpu_build():
        arguments["enforce_eager"] = True
        # For each chunk of a prompt vLLM rewinds the random generator, which torch's generators
        # for the CPU can't do: a request with a seed would end the engine
        # (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync).
        arguments["enable_chunked_prefill"] = False
    return arguments


def _for_the_card(
    model: ModelConfig, sizing: Sizing, directory: Path, document: dict[str, Any]
) -> dict[str, Any]:
    """Return vLLM's arguments with those that depend on the card; say once what was chosen."""
    card = _card()
    sequences = sizing.arguments["max_num_seqs"]
    drafts = model.speculation in {"auto", "mtp"} and has_mtp(directory, document)
    chosen = choose(model, card, document, sequences=sequences, has_mtp=drafts)
    if chosen.reasons:
        log.info("chosen for the card", card=card.name or "CPU", choices="; ".join(chosen.reasons))
    sizing.reasons.extend(chosen.reasons)
    own = model.engine_args
    return sizing.arguments | {
        key: value for key, value in chosen.arguments.items() if key not in own
    }


def _card() -> Card:
    capability = current_platform.get_device_capability() if current_platform.is_cuda() else None
    if capability is None:
        return Card(free_ram_bytes=free_ram_bytes())
    return Card(
        capability=(capability.major, capability.minor),
        name=current_platform.get_device_name(),
        memory_bytes=current_platform.get_device_total_memory(),
        free_ram_bytes=free_ram_bytes(),
        wsl=wsl_kernel(),
    )


def _structured_outputs(given: Any) -> Any:
    """Return vLLM's settings for grammars: the operator's, then ours."""
    if not isinstance(given, dict):
        given = {}
    backend = given.get("backend", _STRUCTURED_OUTPUTS["backend"])
    # The other backends refuse the setting.
    compact = {} if backend in {"xgrammar", "guidance"} else {"disable_any_whitespace": False}
    return StructuredOutputsConfig(**(_STRUCTURED_OUTPUTS | compact | given))


def gpu_memory(count: int) -> GpuMemory:
    """Return the memory of the first so many GPUs that vLLM may use; of none if it can't say."""
    if not current_platform.is_cuda():
        return GpuMemory(None, [])
    nvml, numbers = import_pynvml(), []
    try:
        for number in range(count):
            physical = current_platform.device_id_to_physical_device_id(number)
            numbers.append(physical)
    except (IndexError, RuntimeError, ValueError, nvml.NVMLError) as error:  # as on other machines
        log.info("not all GPUs can be watched", watched=len(numbers), error=error)
    return GpuMemory(nvml, numbers)
