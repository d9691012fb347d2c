"""vLLM's own servers on the same engine settings: its Python one in two forms, and its Rust one."""

import json
import os
import sys
from typing import Any

from bench.compare.contenders.base import Settings, Setup, require_vllm
from bench.compare.service import Service, UnavailableError, free_port

_KV_CACHE_BYTES = 256 * 1024 * 1024
_MODEL = "tiny"
# One thread: with two, the kernels of a model this small at times wait for each other. No
# compilation, which eager execution would not use. Nothing asks the network.
ENGINE_ENVIRONMENT: dict[str, str | None] = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "TORCHDYNAMO_DISABLE": "1",
    "PYTHONDONTWRITEBYTECODE": None,
}
_GPU_ENVIRONMENT: dict[str, str | None] = {
    name: value
    for name, value in ENGINE_ENVIRONMENT.items()
    if name not in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE")
}
_PYTHON_KINDS = (
    ("VLLM::", "engine"),
    ("openai.api_server", "frontend"),
)
_RUST_KINDS = (
    ("VLLM::", "engine"),
    ("vllm.entrypoints", "launcher"),
    ("vllm-rs", "frontend"),
)


def environment_of(setup: Setup, settings: Settings) -> dict[str, str | None]:
    """Return the environment of every contender with an engine."""
    environment = dict(ENGINE_ENVIRONMENT if setup.device == "cpu" else _GPU_ENVIRONMENT)
    if settings.compiled:
        environment["TORCHDYNAMO_DISABLE"] = None
    return environment


def engine_arguments(setup: Setup, settings: Settings) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, by their names in Python."""
    arguments: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
    }
    if setup.device == "cpu":
        arguments |= {
            "dtype": "float32",
            "enforce_eager": not settings.compiled,
            "kv_cache_memory_bytes": _KV_CACHE_BYTES,
        }
    else:
        arguments |= {"dtype": "bfloat16"}
    return arguments | setup.engine_arguments


def flags(arguments: dict[str, Any]) -> list[str]:
    """Return the arguments as a command line has them."""
    found = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is False:
            found.append(f"--no-{name.replace('_', '-')}")
        else:
            found += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def vllm_serve(setup: Setup, settings: Settings) -> Service:
    """Return vLLM's Python server with its default processes."""
    return _python("vllm-serve", setup, settings, worker=True)


def vllm_serve_1p(setup: Setup, settings: Settings) -> Service:
    """Return vLLM's Python server with the model in the engine's process: no worker beside it."""
    return _python("vllm-serve-1p", setup, settings, worker=False)


def _python(name: str, setup: Setup, settings: Settings, *, worker: bool) -> Service:
    require_vllm()
    port = free_port()
    environment = environment_of(setup, settings)
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = None if worker else "0"
    return Service(
        name=name,
        command=[
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(setup.engine_model), "--served-model-name", _MODEL),
            *("--host", "127.0.0.1", "--port", str(port)),
            *flags(engine_arguments(setup, settings)),
        ],
        environment=environment,
        port=port,
        ready_path="/health",
        kinds=_PYTHON_KINDS,
        model=_MODEL,
    )


def vllm_rs(setup: Setup, settings: Settings) -> Service:
    """Return vLLM's Rust server, which starts a Python engine."""
    version = require_vllm()
    if setup.vllm_rs is None:
        raise UnavailableError(
            "no vllm-rs here: it is the file vllm/vllm-rs in vLLM's wheel for GPUs; give its path "
            "with --vllm-rs or VLLM_RS"
        )
    if not os.access(setup.vllm_rs, os.X_OK):
        raise UnavailableError(f"{setup.vllm_rs} is no program")
    port = free_port()
    environment = environment_of(setup, settings)
    # It starts "python3" and asks for the metadata of a package named vllm; the CPU build has
    # another name, and its platform is known by the version's suffix.
    environment["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}"  # noqa: PTH120 - a virtual environment's link must not be resolved
    if setup.device == "cpu":
        metadata = setup.work / "vllm-metadata" / f"vllm-{version}+cpu.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        (metadata / "METADATA").write_text(text, encoding="utf-8")
        environment["PYTHONPATH"] = str(metadata.parent)
    return Service(
        name="vllm-rs",
        command=[
            *(str(setup.vllm_rs), "serve", str(setup.engine_model)),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", _MODEL, "--"),
            *flags(engine_arguments(setup, settings)),
        ],
        environment=environment,
        port=port,
        ready_path="/health",
        kinds=_RUST_KINDS,
        model=_MODEL,
    )
