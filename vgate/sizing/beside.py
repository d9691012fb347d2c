"""What models that share a GPU get of it, where each leaves its share to its engine."""

from collections.abc import Sequence

from vgate.config.model import Model
from vgate.fit import FitError, read_checkpoint
from vgate.fit.gpu import GIB

# Where others have all of the GPU, the start fails in words.
_LEAST = 0.05
# What any model needs beside its weights.
_BESIDE_BYTES = GIB // 2


def share_beside(model: Model, others: Sequence[Model]) -> float:
    """Return the most that a model may take of a GPU, 0 to 1, beside others on it.

    Those that name their share or their bytes have them; the others get parts by their weights, as
    far as the files are here, or equal ones.
    """
    if model.memory_bytes is not None:
        return 1.0
    taken, choosing = 0.0, []
    for other in others:
        if other.gpu_memory_utilization != "auto":
            taken += other.gpu_memory_utilization
        elif other.memory_bytes is None:
            choosing.append(other)
    if not choosing:
        return max(_LEAST, 1 - taken)
    sizes = [_weights(each) for each in (model, *choosing)]
    known = [size + _BESIDE_BYTES for size in sizes if size is not None]
    part = known[0] / sum(known) if len(known) == len(sizes) else 1 / len(sizes)
    return max(_LEAST, 1 - taken) * part


def _weights(model: Model) -> int | None:
    try:
        checkpoint = read_checkpoint(model.model_id, model.revision)
    except FitError:
        return None
    return sum(tensor.size_bytes for tensor in checkpoint.tensors.values())
