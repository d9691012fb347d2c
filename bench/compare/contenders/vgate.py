"""V-Gate from this clone, started by its launcher; keys, limits, metrics and logs are on."""

import json
import os
import sys
from typing import Any

from bench.compare.contenders.base import Settings, Setup, require_vllm
from bench.compare.contenders.vllm import engine_arguments, environment_of
from bench.compare.service import Service, free_port

API_KEY = "compare-key-0123456789abcdef"
MODEL = "tiny"
# The largest that may be set: it counts every request and refuses none.
_REQUESTS_PER_MINUTE = 1_000_000
_TOKENS_PER_MINUTE = 10**12
_CONCURRENT = 100_000
_KV_CACHE_TOKENS = 10**9
_PREFILL_TOKENS_PER_S = 1e12
_QUEUE = 16_384
_KINDS = (
    ("vgate.launcher", "launcher"),
    ("vgate.frontend", "frontend"),
    ("vgate.engine", "engine"),
    ("VLLM::", "engine"),
)


def vgate(setup: Setup, settings: Settings) -> Service:
    """Return V-Gate with the real engine."""
    require_vllm()
    arguments = engine_arguments(setup, settings)
    own = {
        "model__model_id": str(setup.engine_model),
        "model__dtype": arguments.pop("dtype"),
        "model__engine_args": arguments,
    }
    if "gpu_memory_utilization" in arguments:
        own["model__gpu_memory_utilization"] = arguments.pop("gpu_memory_utilization")
    # They name what V-Gate has keys of its own for.
    arguments.pop("max_model_len")
    arguments.pop("max_num_seqs")
    return _service("vgate", settings, own, environment_of(setup, settings))


def vgate_dry_run(setup: Setup, settings: Settings) -> Service:
    """Return V-Gate with a simulated engine and a vocabulary of usual size."""
    own = {
        "model__model_id": str(setup.models.large_vocabulary()),
        "dry_run__step_ms": settings.step_ms,
        # Prefill and memory cost nothing: the frontend is what is measured.
        "dry_run__prefill_tokens_per_s": _PREFILL_TOKENS_PER_S,
        "dry_run__kv_cache_tokens": _KV_CACHE_TOKENS,
    }
    return _service("vgate-dry-run", settings, own, {})


def _service(
    name: str, settings: Settings, own: dict[str, Any], engine: dict[str, str | None]
) -> Service:
    dry_run = not engine
    port = free_port()
    key = {
        "name": "compare",
        "key": API_KEY,
        "rate_limit": _REQUESTS_PER_MINUTE,
        "tokens_per_minute": _TOKENS_PER_MINUTE,
        "concurrent": _CONCURRENT,
    }
    values = {
        "server__port": port,
        "server__workers": settings.workers,
        "model__served_model_name": MODEL,
        "model__max_model_len": settings.max_model_len,
        "batch__max_batch_size": settings.max_num_seqs,
        "batch__max_queue_size": _QUEUE,
        "cache__enabled": settings.cache,
        "security__enabled": True,
        "security__api_keys": [key],
        **own,
    }
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("VGATE_")
    }
    # Without its compiled files vLLM is slow to import, and some environments forbid them.
    environment |= {"PYTHONDONTWRITEBYTECODE": None, "VGATE_CONFIG_PATH": os.devnull}
    environment |= engine
    for path, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        environment[f"VGATE_{path.upper()}"] = text
    return Service(
        name=name,
        command=[sys.executable, "-m", "vgate.launcher", *(["--dry-run"] if dry_run else [])],
        environment=environment,
        port=port,
        ready_path="/ready",
        kinds=_KINDS,
        model=MODEL,
        api_key=API_KEY,
        load_flags=("--ignore-eos", "--check", *(("--expect-echo",) if dry_run else ())),
    )
