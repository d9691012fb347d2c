"""What a model takes of a GPU's memory, from its configuration and the headers of its weights.

Needs neither the weights nor vLLM. Weights and KV cache are computed as vLLM 0.32 computes them;
what only a GPU can tell is a model with its sources (`gpu`).
"""

from vgate.fit.checkpoint import Checkpoint, Tensor, read_checkpoint
from vgate.fit.errors import FitError
from vgate.fit.estimate import Estimate, Settings, estimate

__all__ = [
    "Checkpoint",
    "Estimate",
    "FitError",
    "Settings",
    "Tensor",
    "estimate",
    "read_checkpoint",
]
