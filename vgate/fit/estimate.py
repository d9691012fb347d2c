"""Puts together what a model takes of a card, and what remains for its KV cache."""

from typing import Any

import msgspec

from vgate.config.models.settings import has_plain_context
from vgate.fit.checkpoint import Checkpoint
from vgate.fit.errors import FitError
from vgate.fit.families import MTP_TOKENS, NGRAM_TOKENS, check_numbers, completed
from vgate.fit.gpu import (
    Card,
    Overhead,
    has_few_graphs,
    overhead,
    step_tokens,
    usual_sequences,
)
from vgate.fit.layers import cached_layers
from vgate.fit.pages import KVCache, lay_out
from vgate.fit.weights import Weights, drafting_layers, loaded, model_dtype

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_KV_BYTES = {**_BYTES, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
KV_DTYPES = ("auto", *_KV_BYTES)
# Steps that are under way at once with asynchronous scheduling, vLLM's default on a GPU.
_STEPS_IN_FLIGHT = 2
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_seq_length")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the model would be served.

    Attributes:
        context: `model.max_model_len`; None for what the model was made for.
        sequences: `batch.max_num_seqs`; None for vLLM's choice.
        step_tokens: vLLM's max_num_batched_tokens; None for its choice.
        few_graphs: As `model.cuda_graphs`; None for the choice by the card.
        offload: Bytes of the weights that stay in main memory.
        speculation: `model.speculation`, as far as the machine does it.
        draft_tokens: `model.speculation_tokens`.
    """

    context: int | None = None
    sequences: int | None = None
    step_tokens: int | None = None
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    eager: bool = False
    few_graphs: bool | None = None
    offload: int = 0
    speculation: str = "none"
    draft_tokens: int | None = None


class Estimate(msgspec.Struct, frozen=True):
    """What a model takes of a card.

    Attributes:
        kv_memory: Bytes that remain for the KV cache; negative if the rest doesn't fit.
        sequences, step_tokens: The most at once, and the tokens of the largest step.
    """

    model: str
    card: Card
    dtype: str
    kv_dtype: str
    weights: Weights
    overhead: Overhead
    cache: KVCache
    kv_memory: int
    model_context: int
    sequences: int
    step_tokens: int

    def concurrency(self, context: int) -> float:
        """Return how many answers fit at once if each takes the whole context."""
        if not self.cache.groups:
            return float(self.sequences) if self.kv_memory > 0 else 0.0
        return self.cache.concurrency(self.kv_memory, context)

    def longest(self, sequences: int = 1) -> int:
        """Return the longest context with which so many answers fit at once; 0 if none does."""
        if self.kv_memory <= 0:
            return 0
        return self.cache.longest(self.kv_memory, self.model_context, sequences)


def estimate(checkpoint: Checkpoint, card: Card, settings: Settings) -> Estimate:
    """Return what a model takes of a card, with one GPU.

    Raises:
        FitError: The model's architecture isn't understood.
    """
    try:
        found = _estimate(checkpoint, card, settings)
        float(found.kv_memory)  # other numbers are smaller, and none may be beyond it
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise FitError(f"config.json of {checkpoint.name} is not understood: {error!r}") from None
    return found


def _estimate(checkpoint: Checkpoint, card: Card, settings: Settings) -> Estimate:
    text = completed(checkpoint.text)
    check_numbers(text)
    dtype = model_dtype(checkpoint, settings.dtype, bfloat16=card.bfloat16)
    element_bytes = _BYTES[dtype]
    kv_dtype = _kv_dtype(checkpoint, settings.kv_cache_dtype, dtype)
    model_context = context_of(text)
    context = settings.context or model_context
    is_plain = has_plain_context(text, "llama3")  # which names the length that it stretches to
    sequences = settings.sequences or usual_sequences(card.total)
    tokens = settings.step_tokens or step_tokens(card.total, context, sequences)
    drafts = drafting_layers(checkpoint) if settings.speculation in {"auto", "mtp"} else 0
    weights = loaded(
        checkpoint,
        element_bytes=element_bytes,
        quantization=settings.quantization,
        drafts=drafts,
    )
    few = has_few_graphs(card.total) if settings.few_graphs is None else settings.few_graphs
    beside = overhead(
        text,
        tokens=tokens,
        sequences=sequences,
        element_bytes=element_bytes,
        tower_bytes=weights.tower,
        few_graphs=few,
    )
    if settings.eager:
        beside = msgspec.structs.replace(beside, graphs=0)
    cache = lay_out(
        cached_layers(
            checkpoint.text,
            element_bytes,
            drafts=drafts,
            draft_tokens=_draft_tokens(settings, drafts),
        ),
        _KV_BYTES[kv_dtype],
        in_flight_tokens=_STEPS_IN_FLIGHT * tokens,
    )
    return Estimate(
        model=checkpoint.name,
        card=card,
        dtype=dtype,
        kv_dtype=kv_dtype,
        weights=weights,
        overhead=beside,
        cache=cache,
        kv_memory=card.usable - max(0, weights.total - settings.offload) - beside.total,
        model_context=model_context if is_plain else max(model_context, context),
        sequences=sequences,
        step_tokens=tokens,
    )


def _draft_tokens(settings: Settings, layers: int) -> int:
    if settings.speculation == "none":
        return 0
    return settings.draft_tokens or (MTP_TOKENS if layers else NGRAM_TOKENS)


def context_of(text: dict[str, Any]) -> int:
    """Return the context that a model was made for."""
    lengths = [int(text[key]) for key in _LENGTHS if isinstance(text.get(key), int)]
    if not lengths:
        return 2048
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(scaling, dict):
        return min(lengths)
    factor, kind = scaling.get("factor"), scaling.get("rope_type", scaling.get("type"))
    length = min(lengths)
    # As vLLM's _get_and_verify_max_len: these kinds name the length before they stretch it.
    if factor and kind not in {"su", "longrope", "llama3", "default", "mrope", None}:
        original = scaling.get("original_max_position_embeddings")
        length = int((original if kind == "yarn" and original else length) * float(factor))
    return length


def _kv_dtype(checkpoint: Checkpoint, wanted: str, dtype: str) -> str:
    if wanted != "auto":
        return wanted
    method = checkpoint.config.get("quantization_config") or {}
    scheme = method.get("kv_cache_scheme") if isinstance(method, dict) else None
    return "fp8" if isinstance(scheme, dict) and scheme.get("num_bits") == 8 else dtype
