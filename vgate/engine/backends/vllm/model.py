"""Reports the phases of loading the model, and describes it to the frontends."""

from __future__ import annotations

import time
from typing import Any

from vgate.config import Config
from vgate.engine.backends.base import ReportPhase
from vgate.engine.served_files import describe, files_of, fingerprint
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import ModelFiles

# vLLM's max_logprobs for "as many as there are tokens".
_ALL = -1


def model_info(config: Config, vllm_config: Any, directory: str) -> tuple[ModelInfo, ModelFiles]:
    """Return the description of the loaded model, and the files that it describes.

    Raises:
        BackendError: A file can't be read.
    """
    files = files_of(directory)
    max_model_len: int = vllm_config.model_config.max_model_len
    max_num_seqs: int = vllm_config.scheduler_config.max_num_seqs
    vocab_size: int = vllm_config.model_config.get_vocab_size()
    max_logprobs: int = vllm_config.model_config.max_logprobs
    info = ModelInfo(
        names=config.model.served_names,
        files=describe(files),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        # A model without attention has no KV cache that could overflow.
        kv_cache_tokens=vllm_config.cache_config.kv_cache_size_tokens
        or max_num_seqs * max_model_len,
        created=int(time.time()),
        backend="vllm",
        kv_block_tokens=vllm_config.cache_config.block_size,
        task=config.model.task,
        vocab_size=vocab_size,
        max_logprobs=vocab_size if max_logprobs == _ALL else max_logprobs,
        fingerprint=fingerprint(directory),
    )
    return info, files


def reporting_executor(vllm_config: Any, report_phase: ReportPhase) -> Any:
    """Return vLLM's executor class, made to report the phases of its start."""
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
