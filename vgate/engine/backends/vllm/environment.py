"""Starts the vLLM backend: first the environment, then the import that reads it.

`backend`, `parameters` and `setup` import vLLM, so only this file imports `backend`, and not before
the environment is prepared.
"""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import msgspec

from vgate.config import Config
from vgate.config.model import Model as ModelConfig
from vgate.config.models.task import with_task
from vgate.engine.backends import worker_log
from vgate.engine.backends.base import ALL, Allowance, Backend, BackendError, ReportPhase
from vgate.engine.backends.read_ahead import read_ahead
from vgate.engine.backends.vllm.cards.card import wsl_kernel
from vgate.engine.backends.vllm.cards.environment import (
    PLUGIN_GROUPS,
    card_environment,
    wanted_plugins,
)
from vgate.engine.backends.vllm.failures import first_paragraph, is_cpu_build
from vgate.engine.backends.vllm.files import (
    local_directory,
    model_directory,
    weight_formats,
)
from vgate.library_logs import adopt

# Libraries that write their logs by themselves.
_LIBRARIES = ("torch", "vllm", "transformers", "huggingface_hub", "ray")
# Warnings about what V-Gate has chosen, or about what is missing and not needed.
_HARMLESS = (
    "Enforce eager set, disabling torch.compile",
    "Inductor compilation was disabled by user settings",
    "Model Runner V2 requires Triton",
    "Reset SSM cache type to float32",
    "The global random seed is set to",
    "This model does not officially support disabling chunked prefill",
    "Triton is not installed",
    "Triton not available",
    "libiomp is not found in LD_PRELOAD",
    "libtcmalloc is not found in LD_PRELOAD",
)


def create(config: Config, report_phase: ReportPhase, allowance: Allowance = ALL) -> Backend:
    """Load the configured model; fetch it first if needed."""
    if config.model.distributed_executor_backend == "ray" and find_spec("ray") is None:
        raise BackendError(
            "model.distributed_executor_backend is ray, and Ray is not installed here: start with "
            "bin/vgate, which installs it, or run pip install 'vgate[ray]'"
        )
    # Before the slow import: what can't be had needs no vLLM.
    directory = model_directory(config.model, report_phase)
    config = msgspec.structs.replace(config, model=with_task(config.model, directory))
    report_phase("importing vLLM")
    prepare_environment(config.model)
    read_ahead(directory)
    if config.logging.level != "debug":
        # Of torch's C++ part, which writes past any log: what it binds memory to, and the like.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        keep_bytecode("vllm", config.server.state_path / "bytecode")
        with uncollected():
            from vgate.engine.backends.vllm.backend import VLLMBackend
    except Exception as error:
        # Not only ImportError: a library of the wrong version fails in any way.
        reason = f"{type(error).__name__}: {first_paragraph(error)}"
        raise BackendError(
            f"vLLM can't be imported here ({reason}): start with bin/vgate, which installs it, or "
            "install the vLLM that pyproject.toml names into this environment"
        ) from error
    adopt(_LIBRARIES, _HARMLESS)
    if _has_own_workers(config.model):
        worker_log.inherit(Path(tempfile.gettempdir()))
    return VLLMBackend(config, directory, report_phase, allowance)


def keep_bytecode(package: str, directory: Path) -> None:
    """Keep compiled modules in a directory, if a package has none and its own can't be written to.

    As in a container that doesn't run as root, where each start would compile thousands of modules.
    """
    found = find_spec(package)
    if found is None or found.origin is None or sys.dont_write_bytecode or sys.pycache_prefix:
        return
    origin = Path(found.origin)
    if not (Path(cache_from_source(found.origin)).exists() or os.access(origin.parent, os.W_OK)):
        # For this process, and for the workers that vLLM starts.
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(directory)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep what is made inside until the process ends, and don't look for garbage meanwhile.

    For imports: their thousands of modules stay, and looking through them again and again, also
    where vLLM asks for it while it loads, would take a third of the start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _has_own_workers(model: ModelConfig) -> bool:
    """Whether vLLM starts processes for the workers; Ray says itself why one could not start."""
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    executor = model.distributed_executor_backend
    return executor == "mp" or (executor is None and workers > 1)


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
    directory = local_directory(model)
    if directory is not None:
        defaults["HF_HUB_OFFLINE"] = "1"
    wsl = wsl_kernel() is not None
    defaults |= card_environment(model, os.environ, cpu=is_cpu_build(), wsl=wsl)
    installed = {found.name for group in PLUGIN_GROUPS for found in entry_points(group=group)}
    plugins = wanted_plugins(installed, weight_formats(model, directory))
    if plugins is not None:
        defaults["VLLM_PLUGINS"] = plugins
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
