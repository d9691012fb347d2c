"""What to change so that more fits, each with what it brings."""

from collections.abc import Iterator
from typing import Any

import msgspec

from vgate.fit.checkpoint import Checkpoint
from vgate.fit.estimate import Estimate, Settings, estimate
from vgate.fit.gpu import GIB

_FEW_SEQUENCES = 16
# More would leave nothing for what vLLM does not count.
_MOST_UTILIZATION = 0.9
# Of a weight of 16 bits: 4 bits, and for each 128 a scale and a zero point.
_FOUR_BIT_SHARE = 0.27
_WORTH = 1.05


class Change(msgspec.Struct, frozen=True):
    """A change of the settings, or of the model, and what fits then.

    Attributes:
        longest: The longest context with which the wanted answers fit at once; None if the change
            is another model, whose figures `vgate fit` has.
    """

    what: str
    longest: int | None = None
    weights: int | None = None


def advice(
    checkpoint: Checkpoint, found: Estimate, settings: Settings, sequences: int
) -> list[Change]:
    """Return changes that bring something, those first that cost the answers nothing.

    `found` is the estimate for `settings`. `sequences` is how many answers are wanted at once.
    """
    now = found.longest(sequences)
    changes = []
    together: dict[str, Any] = {}
    for what, changed in _changes(found, settings, sequences):
        longest = _with(checkpoint, found, settings, changed).longest(sequences)
        together |= changed
        if longest > now * _WORTH:
            changes.append(Change(what, longest))
    if together and (len(changes) > 1 or not now):
        longest = _with(checkpoint, found, settings, together).longest(sequences)
        if longest > max((change.longest or 0 for change in changes), default=now):
            changes.append(Change("all of that together", longest))
    return changes + list(_smaller(checkpoint, found))


def _with(
    checkpoint: Checkpoint, found: Estimate, settings: Settings, changed: dict[str, Any]
) -> Estimate:
    utilization = changed.get("utilization", found.card.utilization)
    card = msgspec.structs.replace(found.card, utilization=utilization)
    own = {name: value for name, value in changed.items() if name != "utilization"}
    return estimate(checkpoint, card, msgspec.structs.replace(settings, **own))


def _changes(
    found: Estimate, settings: Settings, sequences: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what can be set otherwise: in words, and as fields of the settings or the card."""
    card = found.card
    few = max(sequences, _FEW_SEQUENCES)
    if found.sequences > few:
        what = f"fewer answers at once: batch.max_num_seqs: {few} instead of {found.sequences}"
        yield what, {"sequences": few}
    most = min(_MOST_UTILIZATION, card.most_utilization)
    if most > card.utilization:
        yield f"more of the card: model.gpu_memory_utilization: {most:g}", {"utilization": most}
    if card.fp8 and found.kv_dtype in {"float16", "bfloat16"} and found.cache.token_bytes:
        what = "a KV cache of 8 bits, on Ada and newer: model.kv_cache_dtype: fp8"
        yield what, {"kv_cache_dtype": "fp8"}
    if found.overhead.graphs and not settings.eager:
        what = "no CUDA graphs, which is slower: model.cuda_graphs: none"
        yield what, {"eager": True}


def _smaller(checkpoint: Checkpoint, found: Estimate) -> Iterator[Change]:
    plain = sum(
        tensor.elements
        for name, tensor in checkpoint.tensors.items()
        if tensor.dtype in {"F32", "F16", "BF16"} and name.endswith("proj.weight")
    )
    if plain * 2 < GIB // 4:
        return
    size = found.weights.total - int(plain * 2 * (1 - _FOUR_BIT_SHARE))
    yield Change(
        "the same model in 4 bits, as AWQ or GPTQ, if there is one on the Hub", weights=size
    )
    if found.card.bfloat16:
        # On cards without 8 bit floats Marlin's kernels widen them.
        size = found.weights.total - plain
        yield Change("the same model in FP8, if there is one on the Hub", weights=size)
