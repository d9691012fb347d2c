"""What `auto` stands for: rules over figures, be they those of `vgate.fit` or of vLLM.

A context is the model's own if two whole answers fit at once; else the longest with which two do,
or with which one does where that is less than agents need.
"""

from collections.abc import Callable, Iterator

import msgspec

from vgate.config.model import Model
from vgate.config.schema import Batch, Config
from vgate.fit import Checkpoint, Estimate, Settings, estimate
from vgate.fit.gpu import GIB, MIB, Card, usual_sequences
from vgate.sizing.room import Room, gib

# Whole answers that fit at once.
ANSWERS = 2
# A context that is worth more than a second whole answer.
NEEDED_TOKENS = 8192
# Less is of no use to anybody; it is not chosen instead of what was asked for.
LEAST_TOKENS = 256
# An answer's tokens with its prompt's, as many clients have it: a batch has room for so many.
_TYPICAL_TOKENS = 512
_FEWEST_SEQUENCES = 4
# A batch for the CPU: most answers never become as long as they may.
_HOST_SEQUENCES = 32
# vLLM's most for a CPU (vllm/engine/arg_utils.py, get_batch_defaults).
_HOST_MOST_SEQUENCES = 128
_HOST_KV_BYTES = 64 << 20
_QUANTISED = "one that is quantised (AWQ, GPTQ, FP8)"
# What vLLM itself leaves where it proposes a size for the KV cache (vllm/v1/worker/gpu_worker.py,
# compile_or_warm_up_model).
_UNCOUNTED_BYTES = 150 * MIB
# What was computed before vLLM has measured may be wrong by so much.
_TOLERANCE = 1.25


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is chosen before a model is loaded.

    Attributes:
        context: The longest context; None for the model's own, as far as that fits.
        likely: What vLLM's figures will make of it, as far as can be foreseen.
        sequences: The most at once; None for vLLM's choice.
        kv_bytes: The KV cache; None if vLLM measures what is left for it.
        fits: How many whole answers fit at once, as far as that is known.
        problem: Why the model can't be loaded; "" if it may be.
    """

    context: int | None = None
    likely: int | None = None
    sequences: int | None = None
    kv_bytes: int | None = None
    fits: float | None = None
    problem: str = ""


def longest_context(longest: Callable[[int], int], most: int) -> int:
    """Return the context to serve, in tokens, `most` at most; 0 if none fits.

    `longest` takes a number of answers and returns the longest context with which they all fit.
    """
    context = max(longest(ANSWERS), min(longest(1), NEEDED_TOKENS))
    if context >= most:
        return most
    # Replicas on the same kind of card choose the same one.
    step = 1024 if context >= NEEDED_TOKENS else 256 if context >= 2 * LEAST_TOKENS else 16
    return context // step * step


def settings_of(model: Model, batch: Batch, *, eager: bool = False) -> Settings:
    """Return the settings that an estimate depends on; None in them where they are `auto`."""
    arguments = model.engine_args
    # Steps with drafts have graphs of their own, which vLLM chooses.
    graphs = model.cuda_graphs if model.speculation == "none" else "all"
    few = {"few": True, "all": False}.get(graphs)
    return Settings(
        context=None if model.max_model_len == "auto" else model.max_model_len,
        sequences=None if batch.max_num_seqs == "auto" else batch.max_num_seqs,
        step_tokens=arguments.get("max_num_batched_tokens"),
        kv_cache_dtype=arguments.get("kv_cache_dtype", model.kv_cache_dtype),
        dtype=model.dtype,
        quantization=model.quantization,
        eager=bool(arguments.get("enforce_eager", eager or model.cuda_graphs == "none")),
        few_graphs=few,
        offload=int(model.weights_offload_gib * GIB),
        # On a CPU it would make all steps slower.
        speculation="none" if eager and model.speculation == "auto" else model.speculation,
        draft_tokens=model.speculation_tokens,
    )


def is_bounded(model: Model, config: Config) -> bool:
    """Whether a model's KV cache on a GPU is to be what the figures leave of what it may take.

    Adapters and other models that draft tokens aren't in the figures.
    """
    arguments = model.engine_args
    if model.lora_adapters or {"kv_cache_memory_bytes", "speculative_config"} & arguments.keys():
        return False
    if any("offload" in name or "lora" in name for name in arguments):
        return False
    shared = config.unloads_models and model.gpu_memory_utilization != "auto"
    return shared or model.memory_bytes is not None


def for_gpu(
    checkpoint: Checkpoint, card: Card, room: Room, settings: Settings, *, bounded: bool = False
) -> Plan:
    """Return what to choose for a model on a GPU.

    vLLM measures what is left for the KV cache, by what is free before and after. That fails, or is
    wrong, if another model leaves the GPU meanwhile. So a model that is `bounded`, to its
    `memory_bytes` or a share beside models that come and go, gets its KV cache by the figures.

    Raises:
        FitError: The model isn't understood.
    """
    found = estimate(checkpoint, card, settings)
    if problem := _too_large(found, room, settings.offload):
        return Plan(problem=problem)
    if settings.sequences is None:
        # A smaller batch takes less of a step, and leaves more to the KV cache.
        for sequences in _batches(usual_sequences(card.total)):
            given = msgspec.structs.replace(settings, sequences=sequences)
            found = estimate(checkpoint, card, given)
            if found.kv_memory > 0 and found.concurrency(_TYPICAL_TOKENS) >= sequences:
                break
    kv = _kv_by_figures(found) if bounded else None
    if kv is not None:
        found = msgspec.structs.replace(found, kv_memory=kv)
    context = likely = settings.context
    if context is None:
        likely = longest_context(found.longest, found.model_context)
        context = min(found.model_context, max(NEEDED_TOKENS, int(likely * _TOLERANCE)))
    elif found.concurrency(context) < 1:
        likely = found.longest(1)
    fits = found.concurrency(likely) if likely else 0.0
    return Plan(context=context, likely=likely, sequences=found.sequences, kv_bytes=kv, fits=fits)


def _kv_by_figures(found: Estimate) -> int | None:
    """Return the bytes of a KV cache that vLLM doesn't measure; None if that would be of no use."""
    kv = found.kv_memory - _UNCOUNTED_BYTES
    least = min(LEAST_TOKENS, found.model_context)
    if not found.cache.groups or found.cache.longest(kv, found.model_context) < least:
        return None
    return kv


def for_host(
    checkpoint: Checkpoint,
    room: Room,
    settings: Settings,
    own: int | None = None,
    kv_bytes: int | None = None,
) -> Plan:
    """Return what to choose for a model on the CPU, whose KV cache has a given size.

    Prompts are computed whole there, so a step is as long as the context. `own` is the model's own
    context, in tokens; None for what its config.json says. `kv_bytes` is the size of the KV cache,
    if it is set.

    Raises:
        FitError: The model isn't understood.
    """
    card = Card(total=room.usable, utilization=1.0)
    sequences = settings.sequences or 1
    small = msgspec.structs.replace(settings, eager=True, offload=0, sequences=sequences)
    own = settings.context or own or estimate(checkpoint, card, small).model_context
    kv, found, context = 0, None, own
    for context in [own] if settings.context else _lengths(own):
        tokens = settings.step_tokens or context
        tried = msgspec.structs.replace(small, context=context, step_tokens=tokens)
        found = estimate(checkpoint, card, tried)
        if problem := _too_large(found, room):
            return Plan(problem=problem)
        # What is asked for may take more than the share.
        share = max(room.kv, found.cache.sequence_bytes(context) if settings.context else 0)
        kv = kv_bytes or min(share, found.kv_memory)
        whole = ANSWERS if context > NEEDED_TOKENS else 1
        if found.cache.concurrency(max(0, kv - found.cache.block_bytes), context) >= whole:
            break
    assert found is not None
    if kv < found.cache.block_bytes:
        return Plan(problem=_no_cache(found, room))
    most = (settings.sequences or _HOST_SEQUENCES) * found.cache.sequence_bytes(context)
    wanted = max(_HOST_KV_BYTES, most + found.cache.block_bytes)
    kv = kv_bytes or min(kv, wanted)
    held = found.cache.concurrency(kv, _TYPICAL_TOKENS)
    sequences = settings.sequences or max(_FEWEST_SEQUENCES, int(min(held, _HOST_MOST_SEQUENCES)))
    fits = found.cache.concurrency(kv, context)
    likely = context if fits >= 1 else found.cache.longest(kv, context)
    return Plan(context=context, likely=likely, sequences=sequences, kv_bytes=kv, fits=fits)


def _lengths(own: int) -> Iterator[int]:
    """Yield contexts to try, from a model's own down."""
    yield own
    length = 1 << (own - 1).bit_length() - 1
    while length >= LEAST_TOKENS:
        yield length
        length //= 2


def _batches(usual: int) -> Iterator[int]:
    """Yield sizes of a batch to try, from vLLM's choice down."""
    size = usual
    while size > _FEWEST_SEQUENCES:
        yield from (size, size * 3 // 4)
        size //= 2
    yield _FEWEST_SEQUENCES


def _no_cache(found: Estimate, room: Room) -> str:
    taken = found.weights.total + found.overhead.total
    return (
        f"{found.model} takes {gib(taken)} for its weights and a step of {found.step_tokens:,} "
        f"tokens, and may have {gib(room.usable)} ({room.why}), so no KV cache is left: give it "
        f"more memory, lower model.max_model_len, or serve a smaller model, or {_QUANTISED}"
    )


def _too_large(found: Estimate, room: Room, offload: int = 0) -> str:
    weights = found.weights.total - offload
    if weights < room.usable:
        return ""
    return (
        f"the weights of {found.model} take {gib(weights)}, and it may have {gib(room.usable)} "
        f"({room.why}): end other programs that use the memory, or serve a smaller model, "
        f"or {_QUANTISED}"
    )
