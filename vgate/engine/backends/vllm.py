"""The vLLM backend, on vLLM's in-process EngineCore. The only file that knows vLLM.

EngineCore is internal API of the pinned version; the backend contract suite runs this file for
real. Requests go through vLLM's InputProcessor: fed raw, a bad one would raise inside a step and
poison those beside it. (Measured on a tiny model: one step at 64 sequences costs 1.98 ms here
against 3.21 ms through LLMEngine.)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from pathlib import Path
from typing import Any

from vgate.config import Config
from vgate.config.schema import MIB
from vgate.config.schema import Model as ModelConfig
from vgate.engine.backends.base import BackendError, Output, ReportPhase
from vgate.engine.request import Request
from vgate.errors import ContextLengthExceededError, InvalidValueError, VGateError
from vgate.log import Log
from vgate.wire.messages import FinishReason, ModelInfo
from vgate.wire.sampling import SamplingParams

# Formats that vLLM must find by itself: naming them would force their slow kernels (on an RTX 3060
# "awq" gave 204 tok/s against 1,146 with Marlin, which vLLM picks where it can).
_DETECTED_FORMATS = frozenset({"awq", "gptq"})
_CPU_KV_CACHE_SHARE = 0.25
_CPU_KV_CACHE_MIN_BYTES = 64 * MIB
_FLOAT32_BYTES = 4

log = Log("vgate.engine.vllm")


class VLLMBackend:
    """Loads the configured model and runs it.

    Raises:
        BackendError: The model can't be loaded.
    """

    def __init__(self, config: Config, report_phase: ReportPhase) -> None:
        report_phase("importing vLLM")
        _prepare_environment(config.model)
        from vllm import SamplingParams as VLLMSamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.engine.input_processor import InputProcessor

        self._sampling_params = VLLMSamplingParams
        self._tokens_input = tokens_input
        self._output_kind = RequestOutputKind.DELTA
        vllm_config, directory = _vllm_config(config, report_phase)
        try:
            executor = _reporting_executor(vllm_config, report_phase)
            self._core = EngineCore(vllm_config, executor, log_stats=True)
            self._input_processor = InputProcessor(vllm_config)
        except Exception as error:
            raise BackendError(_advice(error), permanent=_is_permanent(error)) from error
        self._tasks = self._core.get_supported_tasks()
        if "generate" not in self._tasks:
            message = f"{config.model.model_id} does not generate text (it can: {self._tasks})"
            raise BackendError(message)
        self._model = ModelInfo(
            names=config.model.served_names,
            directory=directory,
            max_model_len=vllm_config.model_config.max_model_len,
            max_num_seqs=config.batch.max_batch_size,
            kv_cache_tokens=vllm_config.cache_config.kv_cache_size_tokens,
            created=int(time.time()),
            backend="vllm",
        )

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        return self._model

    def add(self, request: Request) -> None:
        """Start a sequence."""
        from vllm.exceptions import VLLMValidationError

        try:
            core_request = self._input_processor.process_inputs(
                request.key,
                self._tokens_input(request.prompt),
                self._params(request.sampling),
                self._tasks,
            )
            self._core.add_request(*self._core.preprocess_add_request(core_request))
        except (VLLMValidationError, ValueError) as error:
            raise _client_error(error) from None

    def abort(self, keys: list[str]) -> None:
        """Stop sequences."""
        self._core.abort_requests(keys)

    def has_work(self) -> bool:
        """Say whether a sequence runs or its end has still to be settled."""
        # A batch in flight (async scheduling, pipeline parallelism) must be taken out as well.
        return self._core.scheduler.has_requests() or bool(self._core.batch_queue)

    def step(self) -> list[Output] | None:
        """Run the model once."""
        by_client, executed = self._core.step_fn()
        self._core.post_step(executed)
        if not by_client:
            return [] if executed else None
        return [
            Output(
                output.request_id,
                output.new_token_ids,
                None if output.finish_reason is None else _FINISH[str(output.finish_reason)],
                output.prefill_stats.num_cached_tokens if output.prefill_stats else 0,
            )
            for outputs in by_client.values()
            for output in outputs.outputs
        ]

    def kv_cache_usage(self) -> float:
        """Return the share of KV blocks in use."""
        usage: float = self._core.scheduler.get_kv_cache_usage()
        return usage

    def shutdown(self) -> None:
        """Free the device."""
        self._core.shutdown()

    def _params(self, sampling: SamplingParams) -> Any:
        """Map our parameters to vLLM's; the names are the same."""
        return self._sampling_params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            stop_token_ids=sampling.stop_token_ids,
            ignore_eos=sampling.ignore_eos,
            # Frontends detokenise and match stop strings; every new token is sent.
            detokenize=False,
            output_kind=self._output_kind,
            skip_clone=True,
        )


_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def _client_error(error: Exception) -> VGateError:
    """Turn vLLM's refusal of a request into ours."""
    message = str(error)
    if "longer than the maximum model length" in message or "max_model_len" in message:
        return ContextLengthExceededError(message, param="messages")
    return InvalidValueError(message, param=getattr(error, "parameter", None))


def _prepare_environment(model: ModelConfig) -> None:
    """Set what vLLM and torch read at import. A variable that the operator set stays."""
    defaults = {
        "VLLM_CONFIGURE_LOGGING": "0",  # its lines come out in our shape
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    parallel = model.tensor_parallel_size * model.pipeline_parallel_size
    if parallel == 1 and model.distributed_executor_backend is None:
        # The worker runs in this process: its loop needs no second process to talk to.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if Path(model.model_id).is_dir():
        defaults["HF_HUB_OFFLINE"] = "1"
    if _is_cpu_build():
        # One core is left for the frontends. With as many threads as cores the two sides take
        # turns waiting for each other, and decoding collapses.
        defaults["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) - 1))
        # With eager execution nothing is compiled; without a C++ compiler trying to would fail.
        defaults["TORCHDYNAMO_DISABLE"] = "1"
        defaults["VLLM_HOST_IP"] = "127.0.0.1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _is_cpu_build() -> bool:
    return "cpu" in importlib.metadata.version("torch")


def _vllm_config(config: Config, report_phase: ReportPhase) -> tuple[Any, str]:
    """Return vLLM's configuration and the model's local directory.

    Raises:
        BackendError: vLLM refuses the configuration, or the model can't be had.
    """
    from vllm import EngineArgs

    directory = _model_directory(config.model, report_phase)
    report_phase("reading the model's configuration")
    _check_quantization(config.model, directory)
    arguments = _engine_args(config, directory)
    try:
        return EngineArgs(**arguments).create_engine_config(), directory
    except TypeError as error:
        message = f"model.engine_args: {error}"
        raise BackendError(message) from error
    except Exception as error:
        raise BackendError(_advice(error)) from error


def _engine_args(config: Config, directory: str) -> dict[str, Any]:
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
    }
    if model.distributed_executor_backend is not None:
        arguments["distributed_executor_backend"] = model.distributed_executor_backend
    if model.quantization is not None and model.quantization not in _DETECTED_FORMATS:
        arguments["quantization"] = model.quantization
    if _is_cpu_build():
        # vLLM's default takes 92% of the machine's memory, which frontends and others need.
        arguments["kv_cache_memory_bytes"] = _cpu_kv_cache_bytes(config, directory)
        arguments["enforce_eager"] = True
    return arguments | model.engine_args


def _cpu_kv_cache_bytes(config: Config, directory: str) -> int:
    """Return room for a full batch of full contexts, within a share of the free memory."""
    document = _read_model_config(directory)
    text = document.get("text_config", document)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = int(free * _CPU_KV_CACHE_SHARE)
    try:
        heads = text["num_attention_heads"]
        head_size = text.get("head_dim") or text["hidden_size"] // heads
        kv_heads = text.get("num_key_value_heads") or heads
        per_token = 2 * text["num_hidden_layers"] * kv_heads * head_size * _FLOAT32_BYTES
    except (KeyError, TypeError):
        # An architecture that names its parts in another way: take the share.
        return max(_CPU_KV_CACHE_MIN_BYTES, share)
    full = config.batch.max_batch_size * config.model.max_model_len * per_token
    return max(_CPU_KV_CACHE_MIN_BYTES, min(full, share))


def _read_model_config(directory: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(directory, "config.json").read_bytes())
    except (OSError, ValueError) as error:
        message = f"cannot read {directory}/config.json: {error}"
        raise BackendError(message) from error
    return document if isinstance(document, dict) else {}


def _model_directory(model: ModelConfig, report_phase: ReportPhase) -> str:
    """Return the model's files on disk, downloading them first where they aren't.

    Raises:
        BackendError: There are no such files, or the download failed.
    """
    if Path(model.model_id).is_dir():
        return str(Path(model.model_id).resolve())
    if model.model_id.startswith((".", "/", "~")):
        message = f"model.model_id: the directory {model.model_id} does not exist"
        raise BackendError(message)
    from huggingface_hub import snapshot_download

    report_phase(f"fetching {model.model_id}")
    try:
        return snapshot_download(
            model.model_id,
            revision=model.revision,
            ignore_patterns=["*.pt", "*.pth", "*.gguf", "original/*", "*.onnx"],
        )
    except Exception as error:
        message = (
            f"cannot fetch the model {model.model_id}: {_first_line(error)}\n"
            "Set model.model_id to a directory with the model, or check the name and the network."
        )
        raise BackendError(message, permanent=False) from error


def _check_quantization(model: ModelConfig, directory: str) -> None:
    if model.quantization not in _DETECTED_FORMATS:
        return
    found = (_read_model_config(directory).get("quantization_config") or {}).get("quant_method")
    if found != model.quantization:
        message = (
            f"model.quantization is {model.quantization!r}, but the checkpoint in {directory} "
            f"is {found or 'not quantized'}; leave model.quantization empty to use what it is"
        )
        raise BackendError(message)


def _reporting_executor(vllm_config: Any, report_phase: ReportPhase) -> Any:
    """Return vLLM's executor class, telling the phases of its start."""
    from vllm.v1.executor import Executor

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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _is_permanent(error: BaseException) -> bool:
    """Memory may be free again at the next try; a wrong model or option stays wrong."""
    return "memory" not in str(error).lower()


def _advice(error: BaseException) -> str:
    """Say what to do about a failed start, where that is known."""
    text = str(error)
    if "out of memory" in text.lower() or "free memory on device" in text.lower():
        return (
            f"{_first_line(error)}\nThe GPU's memory does not hold the model: free it of other "
            "programs, lower model.max_model_len, or serve a smaller or quantized model. If "
            "memory is left over, raise model.gpu_memory_utilization."
        )
    if "KV cache" in text:
        return (
            f"{_first_line(error)}\nLower model.max_model_len or batch.max_batch_size, or raise "
            "model.gpu_memory_utilization."
        )
    return text.strip() or type(error).__name__
