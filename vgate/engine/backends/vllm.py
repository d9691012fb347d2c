"""The vLLM backend, on vLLM's in-process EngineCore. With `vllm_setup` all that knows vLLM.

EngineCore is internal API of the pinned version; the backend contract suite runs this file for
real. Requests go through vLLM's InputProcessor: fed raw, a bad one would raise inside a step and
poison those beside it. (Measured on a tiny model: one step at 64 sequences costs 1.98 ms here
against 3.21 ms through LLMEngine.)
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from vgate.config import Config
from vgate.engine.backends.base import BackendCounts, BackendError, Output, ReportPhase
from vgate.engine.backends.vllm_setup import (
    engine_config,
    is_permanent,
    prepare_environment,
    start_failure,
)
from vgate.engine.request import Request
from vgate.errors import (
    ContextLengthExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidValueError,
    VGateError,
)
from vgate.log import Log
from vgate.wire.messages import FinishReason, ModelInfo
from vgate.wire.sampling import SamplingParams

# vLLM takes -1 for "no seed" (vllm/sampling_params.py, __post_init__), yet it is a seed like any
# other. Any fixed number will do: two seeds may well give the same sample.
_VLLM_NO_SEED = -1
_SEED_INSTEAD = 2**63 - 1

log = Log("vgate.engine.vllm")


class VLLMBackend:
    """Loads the configured model and runs it.

    Raises:
        BackendError: The model can't be loaded.
    """

    def __init__(self, config: Config, report_phase: ReportPhase) -> None:
        report_phase("importing vLLM")
        prepare_environment(config.model)
        try:
            from vllm import PoolingParams
            from vllm import SamplingParams as VLLMSamplingParams
            from vllm.exceptions import VLLMClientError
            from vllm.inputs.engine import tokens_input
            from vllm.sampling_params import RequestOutputKind
            from vllm.v1.engine.core import EngineCore
            from vllm.v1.engine.input_processor import InputProcessor
        except ImportError as error:
            message = f"vLLM can't be imported here: {error}"
            raise BackendError(message) from error

        self._sampling_params = VLLMSamplingParams
        self._pooling_params = PoolingParams
        self._tokens_input = tokens_input
        self._output_kind = RequestOutputKind.DELTA
        self._refusals = (VLLMClientError, ValueError)
        self._worker_died = False
        # vLLM's own objects of the running requests, for what it counts in them.
        self._requests: dict[str, Any] = {}
        self._preemptions = self._prefix_queries = self._prefix_hits = 0
        vllm_config, directory = engine_config(config, report_phase)
        try:
            self._core = EngineCore(
                vllm_config,
                _reporting_executor(vllm_config, report_phase),
                # Nobody reads vLLM's statistics of every step.
                log_stats=False,
                executor_fail_callback=self._on_worker_death,
            )
            self._input_processor = InputProcessor(vllm_config)
        except Exception as error:
            log.exception("vLLM could not start")
            raise BackendError(
                start_failure(error, config), permanent=is_permanent(error)
            ) from error
        self._tasks = self._core.get_supported_tasks()
        if config.model.task not in self._tasks:
            message = f"{config.model.model_id} can't {config.model.task}: it can {self._tasks}"
            raise BackendError(message)
        self._model = _model_info(config, vllm_config, directory)

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        return self._model

    def add(self, request: Request) -> None:
        """Start a sequence."""
        try:
            prepared = self._core.preprocess_add_request(
                self._input_processor.process_inputs(
                    request.key,
                    self._tokens_input(request.prompt),
                    self._params(request),
                    self._tasks,
                )
            )
        except self._refusals as error:
            raise _refusal(error) from None
        except Exception as error:
            # The scheduler hasn't heard of it yet, so it harms nobody but itself.
            log.exception("vLLM could not take a request", key=request.key)
            message = f"vLLM could not take the request: {type(error).__name__}"
            raise InternalError(message) from error
        self._core.add_request(*prepared)
        self._requests[request.key] = prepared[0]

    def abort(self, keys: list[str]) -> None:
        """Stop sequences."""
        self._core.abort_requests(keys)
        for key in keys:
            self._forget(key)

    def has_work(self) -> bool:
        """Say whether a sequence runs or its end has still to be settled."""
        core = self._core
        # A batch in flight (async scheduling, pipeline parallelism) must be taken out as well, and
        # the death of a worker process is told by the next step.
        return core.scheduler.has_requests() or bool(core.batch_queue) or self._worker_died

    def step(self) -> list[Output] | None:
        """Run the model once."""
        if self._worker_died:
            message = "a worker process of vLLM died"
            raise RuntimeError(message)
        by_client, executed = self._core.step_fn()
        self._core.post_step(executed)
        outputs = [
            self._output(output)
            for of_client in (by_client or {}).values()
            for output in of_client.outputs
        ]
        # What vLLM brings without a run of the model is empty but for its own bookkeeping, so the
        # outputs say whether anything happened.
        return outputs if outputs or executed else None

    def kv_cache_usage(self) -> float:
        """Return the share of KV blocks in use."""
        usage: float = self._core.scheduler.get_kv_cache_usage()
        return usage

    def counts(self) -> BackendCounts:
        """Return what was counted; vLLM keeps preemptions with each request."""
        running = sum(request.num_preemptions for request in self._requests.values())
        return BackendCounts(self._preemptions + running, self._prefix_queries, self._prefix_hits)

    def shutdown(self) -> None:
        """End the workers. The process ends now: the rest of vLLM's clean-up is the kernel's."""
        self._core.model_executor.shutdown()

    def _on_worker_death(self) -> None:
        """Note that the executor lost a process. Called from a thread of vLLM's."""
        self._worker_died = True

    def _forget(self, key: str) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            self._preemptions += request.num_preemptions

    def _output(self, output: Any) -> Output:
        """Translate what one step brought for one request."""
        key, reason, cached_tokens = output.request_id, output.finish_reason, 0
        if (stats := output.prefill_stats) is not None:
            cached_tokens = stats.num_cached_tokens
            self._prefix_queries += stats.num_prompt_tokens
            self._prefix_hits += cached_tokens
        if reason is not None:
            self._forget(key)
        if output.pooling_output is not None:
            vector = output.pooling_output.float().cpu().numpy().astype("<f4").tobytes()
            return Output(key, [], None, cached_tokens, vector)
        if reason in _FINISH:
            return Output(key, output.new_token_ids, _FINISH[reason], cached_tokens)
        # vLLM gave this one up (a lost KV transfer, a grammar that broke); the others go on.
        message = f"vLLM ended the request before it was complete ({reason})"
        error = EngineUnavailableError(message, retry_after_s=1.0)
        return Output(key, [], None, cached_tokens, error=error)

    def _params(self, request: Request) -> Any:
        """Return vLLM's parameters for a request."""
        if request.sampling is None:
            return self._pooling_params(task="embed", dimensions=request.dimensions)
        return self._generation_params(request.sampling)

    def _generation_params(self, sampling: SamplingParams) -> Any:
        """Map our parameters to vLLM's; the names are the same."""
        given = {
            name: value
            for name, value in msgspec.structs.asdict(sampling).items()
            if value is not None
        }
        if sampling.seed == _VLLM_NO_SEED:
            given["seed"] = _SEED_INSTEAD
        return self._sampling_params(
            **given,
            # Frontends detokenise and match stop strings; every new token is sent.
            detokenize=False,
            output_kind=self._output_kind,
            skip_clone=True,
        )


# vllm.v1.engine.FinishReason; what is not here is an error.
_FINISH: dict[int | None, FinishReason | None] = {None: None, 0: "stop", 1: "length"}


def _refusal(error: Exception) -> VGateError:
    """Turn vLLM's refusal of a request into ours."""
    # str() of vLLM's own adds the parameter and the whole value.
    message = str(error.args[0]) if error.args else str(error)
    if "longer than the maximum model length" in message or "max_model_len" in message:
        return ContextLengthExceededError(message, param="messages")
    return InvalidValueError(message, param=getattr(error, "parameter", None))


def _model_info(config: Config, vllm_config: Any, directory: str) -> ModelInfo:
    max_model_len: int = vllm_config.model_config.max_model_len
    max_num_seqs: int = vllm_config.scheduler_config.max_num_seqs
    return ModelInfo(
        names=config.model.served_names,
        directory=directory,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        # A model without attention has no KV cache that could overflow.
        kv_cache_tokens=vllm_config.cache_config.kv_cache_size_tokens
        or max_num_seqs * max_model_len,
        created=int(time.time()),
        backend="vllm",
        kv_block_tokens=vllm_config.cache_config.block_size,
        task=config.model.task,
    )


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
