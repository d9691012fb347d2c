"""`python -m tests.fit.vllm_program REPORT MODEL...`: what vLLM itself makes of models.

It builds each as its worker does, with random weights if it has none, and asks its KV cache
manager, without starting an engine. The figures of each model, or why it has none, are written as
JSON.
"""

import contextlib
import dataclasses
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from vllm import EngineArgs
from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader import base_loader, get_model
from vllm.model_executor.models import registry
from vllm.platforms import current_platform
from vllm.v1.attention.backends.utils import (
    get_supported_kv_cache_layouts,
    resolve_kv_cache_layout,
)
from vllm.v1.core.kv_cache_utils import (
    get_kv_cache_capacity,
    get_kv_cache_configs,
    get_kv_cache_groups,
)
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

# Scales of the KV cache: they are gone once they are read.
_SCALES = re.compile(r"\.attn\.\w+$")
_SHARED = re.compile(rf"(^|\.)(embed_tokens|shared_head\.head|lm_head)\.|{_SCALES.pattern}")
MEMORY = 1 << 28
CONTEXTS = (64, 1000, 4096)


def main(report: str, *models: str) -> None:
    """Write what vLLM says of each model."""
    # Its worker does so, too: there is no accelerator.
    torch.accelerator.empty_cache = lambda: None
    # Looking at a model's class in a process of its own takes seconds.
    registry._run_in_subprocess = lambda look: look()
    found: dict[str, Any] = {}
    for model in models:
        name = Path(model).name
        try:
            found[name] = _of_model(model)
        except Exception:  # noqa: BLE001 - it is what the report is about
            first = traceback.format_exc()[-1500:]
            # Some formats have no kernel for CPUs, so the weights stay as they were loaded.
            process = base_loader.process_weights_after_loading
            base_loader.process_weights_after_loading = lambda *_: None
            try:
                found[name] = {**_of_model(model), "unprocessed": first}
            except Exception:  # noqa: BLE001
                found[name] = {"error": first + traceback.format_exc()[-1500:]}
            base_loader.process_weights_after_loading = process
    Path(report).write_text(json.dumps(found), encoding="utf-8")
    with contextlib.suppress(Exception):
        cleanup_dist_env_and_memory()


def _of_model(model: str) -> dict[str, Any]:
    config = _config(model, CONTEXTS[-1])
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, "tcp://127.0.0.1:0", 0, backend="gloo")
        # Anew for each, because models with experts have a group of their own.
        destroy_model_parallel()
        initialize_model_parallel(1, 1)
        return _figures(config)


def _config(model: str, context: int) -> Any:
    # Of tests.fit.families.DRAFTING.
    drafts = "num_nextn_predict_layers" in json.loads(Path(model, "config.json").read_bytes())
    return EngineArgs(
        model=model,
        skip_tokenizer_init=True,
        load_format="auto" if Path(model, "model.safetensors").exists() else "dummy",
        max_model_len=context,
        enforce_eager=True,
        kv_cache_memory_bytes=MEMORY,
        speculative_config={"method": "mtp", "num_speculative_tokens": 1} if drafts else None,
    ).create_engine_config()


def _built(config: Any, left_out: re.Pattern[str], **options: Any) -> tuple[Any, int]:
    """Return a model, and the bytes of its weights as they were loaded."""
    created = {}
    process = base_loader.process_weights_after_loading

    def measured(model: Any, *arguments: Any) -> None:
        # CPU kernels pack most weights, and hold them elsewhere.
        created["bytes"] = _bytes(
            parameter for name, parameter in model.named_parameters() if not left_out.search(name)
        )
        process(model, *arguments)

    base_loader.process_weights_after_loading = measured
    try:
        loaded = get_model(vllm_config=config, **options)
    finally:
        base_loader.process_weights_after_loading = process
    return loaded, created["bytes"]


def _figures(config: Any) -> dict[str, Any]:
    loaded, created = _built(config, _SCALES)
    drafting = _drafting(config) if config.speculative_config else 0
    current_platform.update_block_size_for_backend(config)
    figures = {
        "drafting": drafting,
        "created": created,
        "processed": _bytes(loaded.parameters()),
        "copies": _copies(loaded),
        "dtype": str(config.model_config.dtype),
        "block_tokens": config.cache_config.block_size,
        "prefix_caching": bool(config.cache_config.enable_prefix_caching),
        "in_flight_tokens": config.max_in_flight_tokens,
        "tables": sum(
            {b.data_ptr(): b.nbytes for n, b in loaded.named_buffers() if "cos_sin" in n}.values()
        ),
    }
    specs = get_kv_cache_spec(config)
    layers = get_layers_from_vllm_config(config, AttentionLayerBase)
    backends = {layer.get_attn_backend() for layer in layers.values()}
    layouts = [layout.name for layout in get_supported_kv_cache_layouts(backends)]
    resolve_kv_cache_layout(config, [layouts], specs.values())
    groups = get_kv_cache_groups(config, specs)
    figures["groups"] = sorted(
        [len(group.layer_names), group.kv_cache_spec.block_size] for group in groups
    )
    figures["capacity"] = {}
    for context in CONTEXTS:
        config.model_config.max_model_len = context
        (cache,) = get_kv_cache_configs(config, [specs], [MEMORY])
        tokens, concurrency = get_kv_cache_capacity(config, cache)
        figures["capacity"][context] = [cache.num_blocks, tokens, concurrency]
    return figures


def _drafting(config: Any) -> int:
    """Return the bytes of the layers that draft tokens, but for what they share with the others."""
    # As vllm/v1/spec_decode/llm_base_proposer.py makes them and shares the rest.
    own = config.speculative_config.draft_model_config
    draft = dataclasses.replace(config, model_config=own)
    return _built(draft, _SHARED, model_config=own, prefix="draft")[1]


def _bytes(tensors: Any) -> int:
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _copies(model: torch.nn.Module) -> int:
    names = ("W_UV", "W_UK_T")
    found = [getattr(m, name) for m in model.modules() for name in names if hasattr(m, name)]
    return _bytes(tensor for tensor in found if isinstance(tensor, torch.Tensor))


if __name__ == "__main__":
    main(*sys.argv[1:])
