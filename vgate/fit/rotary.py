"""How large the tables of rotary embeddings are, which vLLM keeps once for each kind of layer."""

from typing import Any

from vgate.fit.errors import FitError
from vgate.fit.layers import head_size

# Models that know positions by their states.
_WITHOUT = frozenset({"jamba", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})


def rotary_elements(text: dict[str, Any]) -> int:
    """Return the numbers in a language model's tables (vllm/.../layers/rotary_embedding)."""
    positions = text.get("max_position_embeddings")
    kind = str(text.get("model_type") or "")
    without = kind in _WITHOUT or text.get("alibi")
    # Granite's hybrids say that they have none.
    if text.get("position_embedding_type") == "nope":
        without = True
    if without or not isinstance(positions, int):
        return 0
    try:
        size = int(text.get("qk_rope_head_dim") or head_size(text))
    except (FitError, KeyError, TypeError, ZeroDivisionError):
        return 0
    scalings = _scalings(text)
    return sum(
        _positions(scaling, positions) * _rotated(scaling, text, size) for scaling in scalings
    )


def _scalings(text: dict[str, Any]) -> list[dict[str, Any]]:
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(given, dict):
        return [{}]
    if nested := [value for value in given.values() if isinstance(value, dict)]:
        return nested
    kind = str(text.get("model_type") or "")
    if kind.startswith(("gemma3", "gemma4")):
        return [given, {}]  # layers with a window have angles of their own
    return [given]


def _rotated(scaling: dict[str, Any], text: dict[str, Any], size: int) -> int:
    share = scaling.get("partial_rotary_factor") or text.get("partial_rotary_factor") or 1
    return int(size * float(share))


def _positions(scaling: dict[str, Any], positions: int) -> int:
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = float(scaling.get("factor") or 1)
    original = scaling.get("original_max_position_embeddings")
    if kind in {"yarn", "deepseek_yarn"} and isinstance(original, int):
        return int(original * factor)
    if kind in {"linear", "dynamic", "ntk"}:
        return int(positions * factor)
    if kind in {"longrope", "su"} and isinstance(original, int):
        return positions + original  # one for short texts, one for long ones
    return positions
