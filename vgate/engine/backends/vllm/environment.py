"""Starts the vLLM backend: first the environment, then the import that reads it.

`backend`, `parameters` and `setup` import vLLM, so only this file imports `backend`, and not before
the environment is prepared.
"""

import os
from pathlib import Path

from vgate.config import Config
from vgate.config.schema import Model as ModelConfig
from vgate.engine.backends.base import Backend, BackendError, ReportPhase
from vgate.engine.backends.vllm.failures import first_paragraph, is_cpu_build
from vgate.engine.backends.vllm.files import local_directory


def create(config: Config, report_phase: ReportPhase) -> Backend:
    """Load the configured model."""
    report_phase("importing vLLM")
    prepare_environment(config.model)
    try:
        from vgate.engine.backends.vllm.backend import VLLMBackend
    except Exception as error:
        # Not only ImportError: a library of the wrong version fails in any way.
        reason = f"{type(error).__name__}: {first_paragraph(error)}"
        raise BackendError(
            f"vLLM can't be imported here ({reason}): start with bin/vgate, which installs it, or "
            "install the vLLM that pyproject.toml names into this environment"
        ) from error
    return VLLMBackend(config, report_phase)


def prepare_environment(model: ModelConfig) -> None:
    """Set what vLLM and torch read at import, but no variable that is set already."""
    defaults = {
        "VLLM_CONFIGURE_LOGGING": "0",  # our log formats its lines
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    temporary = Path(os.environ.get("TMPDIR", ""))
    if temporary.name.startswith("vgate-"):
        # The launcher removes it with this process, and compiled kernels should outlive that.
        kept = temporary.parent / f"torchinductor_{os.getuid()}"
        defaults["TORCHINDUCTOR_CACHE_DIR"] = str(kept)
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    if workers == 1 and model.distributed_executor_backend is None:
        # The worker runs in this process, so vLLM needs no process of its own.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # Raises an error for a directory that can't be served, before the slow import.
    if local_directory(model) is not None:
        defaults["HF_HUB_OFFLINE"] = "1"
    if is_cpu_build():
        # One core is left for the frontends: with as many threads as cores, engine and frontends
        # wait for each other, and decoding collapses.
        defaults["OMP_NUM_THREADS"] = str(max(1, (len(os.sched_getaffinity(0)) - 1) // workers))
        if workers > 1:
            # Otherwise vLLM binds each worker to its own NUMA node, and fails if there are too few.
            defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if model.engine_args.get("enforce_eager", True):
            # Nothing is compiled then; without this, a missing C++ compiler would be an error.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
        if model.distributed_executor_backend != "ray":
            defaults["VLLM_HOST_IP"] = "127.0.0.1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
