"""From a model's settings and a card to vLLM's arguments, with the reason of each choice. Pure.

Checked against vLLM 0.32, whose files are named where a rule comes from them.
"""

from typing import Any

import msgspec

from vgate.config.model import Model
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.cards.card import Card
from vgate.engine.backends.vllm.cards.speculation import speculative_config
from vgate.engine.tenants import reserved_seqs
from vgate.fit.gpu import GIB, few_graph_sizes, has_few_graphs

# CUDA's kernel in WSL2 since which memory can be pinned (vllm/platforms/cuda.py).
WSL_PINS_SINCE = (4, 19, 121)
# Main memory that stays for everything else.
_RAM_SHARE = 0.8
# The first cards that compute with floats of 8 bits, or of the type bfloat16.
_ADA, _AMPERE = (8, 9), (8, 0)
# Arguments of the operator with which graphs are theirs.
_GRAPH_ARGUMENTS = {
    *("compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size"),
    *("enforce_eager", "optimization_level"),
}
# Formats whose weights are packed numbers of 4 or 8 bits.
_PACKED = {"awq": "AWQ", "gptq": "GPTQ", "compressed-tensors": "compressed-tensors"}


class Choices(msgspec.Struct, frozen=True):
    """What was chosen.

    Attributes:
        arguments: vLLM's, by name; the operator's `engine_args` go over them.
        reasons: What a person would want to know, a sentence each.
    """

    arguments: dict[str, Any] = {}
    reasons: list[str] = []


def choose(
    model: Model, card: Card, document: dict[str, Any], *, sequences: int, has_mtp: bool = False
) -> Choices:
    """Return vLLM's arguments for a model on a card.

    Args:
        model: Its settings.
        card: Where it runs.
        document: Its config.json.
        sequences: The most at once, without the reserved places.
        has_mtp: Whether the checkpoint has layers that draft.

    Raises:
        BackendError: The card can't do what is asked for.
    """
    found = Choices({}, [])
    _numbers(found, model, card)
    _kernels(found, card, document)
    _offload(found, model, card)
    _prefix_cache(found, model)
    if model.task in {"generate", "auto"}:
        speculation, reasons = speculative_config(model, card, sequences, has_mtp=has_mtp)
        found.reasons.extend(reasons)
        if speculation:
            found.arguments["speculative_config"] = speculation
    _graphs(found, model, card, sequences)
    return found


def _numbers(found: Choices, model: Model, card: Card) -> None:
    wanted = model.kv_cache_dtype
    if card.capability is not None and card.capability < _AMPERE:
        for setting, value in (("dtype", model.dtype), ("kv_cache_dtype", wanted)):
            if value == "bfloat16":
                raise BackendError(
                    f"model.{setting} is bfloat16, which {_named(card)} can't compute, only cards "
                    "since Ampere (8.0) can: set it to auto or float16"
                )
    if wanted == "auto":
        return
    is_fp8 = wanted.startswith("fp8")
    if card.capability is None and not is_fp8:
        raise BackendError(
            f"model.kv_cache_dtype is {wanted}, but on a CPU vLLM keeps the model's own type or fp8"
        )
    if is_fp8 and card.capability is not None and card.capability < _ADA:
        raise BackendError(
            f"model.kv_cache_dtype is {wanted}, which needs a card since Ada (compute capability "
            f"8.9), and this is {_named(card)}: set it to auto, and lower model.max_model_len or "
            "batch.max_num_seqs instead"
        )
    found.arguments["kv_cache_dtype"] = wanted
    found.reasons.append(f"the KV cache holds {wanted}, as model.kv_cache_dtype says")


def _named(card: Card) -> str:
    return f"{card.name or 'this card'} ({card.version})"


def _kernels(found: Choices, card: Card, document: dict[str, Any]) -> None:
    """Say how quantized weights are computed; vLLM finds the kernels itself."""
    settings = document.get("quantization_config")
    method = str(settings.get("quant_method") or "") if isinstance(settings, dict) else ""
    if card.capability is None or not method:
        return
    if method in _PACKED and card.has(7, 5):
        found.reasons.append(f"{_PACKED[method]} weights are computed by Marlin's kernels")
    elif method in {"fp8", "modelopt"} and not card.has(*_ADA):
        found.reasons.append(
            f"FP8 weights stay small in memory, and Marlin's kernels widen them: {_named(card)} "
            "does not compute with 8 bit floats, so INT4 (AWQ, GPTQ) would be faster"
        )
    elif method == "fp8":
        found.reasons.append("FP8 weights are computed as they are")


def _offload(found: Choices, model: Model, card: Card) -> None:
    weights, cache = model.weights_offload_gib, model.kv_offload_gib
    if not weights and not cache:
        return
    if card.capability is None:
        found.reasons.append("nothing is offloaded: without a GPU all is in main memory")
        return
    if card.wsl is not None and card.wsl < WSL_PINS_SINCE:
        raise BackendError(
            "model.weights_offload_gib and model.kv_offload_gib need memory that the GPU can read, "
            f"and WSL's kernel {'.'.join(map(str, card.wsl))} has none: run `wsl --update`"
        )
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    # vLLM's first is for each GPU, its second for all of them.
    wanted = int((weights * workers + cache) * GIB)
    if card.free_ram_bytes and wanted > card.free_ram_bytes * _RAM_SHARE:
        raise BackendError(
            f"model.weights_offload_gib and model.kv_offload_gib ask for {wanted / GIB:.1f} GiB of "
            f"main memory, of which {card.free_ram_bytes / GIB:.1f} GiB are free, and a fifth has "
            "to stay: lower them, or end other programs"
        )
    if weights:
        found.arguments["cpu_offload_gb"] = weights
        found.reasons.append(
            f"{weights:g} GiB of weights stay in main memory, and each step reads them over the bus"
        )
    if cache:
        if model.prefix_caching is False:
            raise BackendError(
                "model.kv_offload_gib keeps parts of the prefix cache: unset model.prefix_caching, "
                "or set it to true"
            )
        found.arguments["kv_offloading_size"] = cache
        found.reasons.append(f"{cache:g} GiB of main memory keep what leaves the KV cache")


def _prefix_cache(found: Choices, model: Model) -> None:
    if model.prefix_caching is not None:
        found.arguments["enable_prefix_caching"] = model.prefix_caching
    if model.prefix_caching is False:
        found.reasons.append("prompts are computed anew each time, as model.prefix_caching says")


def _graphs(found: Choices, model: Model, card: Card, sequences: int) -> None:
    """Choose for which sizes of the batch CUDA graphs are made."""
    wanted = model.cuda_graphs
    if card.capability is None or model.engine_args.keys() & _GRAPH_ARGUMENTS:
        return
    if wanted == "none":
        found.arguments["enforce_eager"] = True
        found.reasons.append("no CUDA graphs, as model.cuda_graphs says: steps are slower")
        return
    # With drafts vLLM makes them for each number of tokens that a sequence may have in a step.
    few = wanted == "few" or (wanted == "auto" and has_few_graphs(card.memory_bytes))
    if not few:
        return
    if "speculative_config" in {**found.arguments, **model.engine_args}:
        found.reasons.append("CUDA graphs are vLLM's, for steps with drafts and without")
        return
    most = sequences + reserved_seqs(sequences)
    sizes = few_graph_sizes(most)
    found.arguments["cudagraph_capture_sizes"] = sizes
    found.reasons.append(
        f"CUDA graphs for {len(sizes)} sizes of the batch, up to {most}, which saves memory"
    )
