"""The states that layers without attention keep for a sequence, with the size of their numbers.

vLLM's own shapes, for one GPU (vllm/model_executor/layers/mamba/mamba_utils.py, and
`get_mamba_state_shape_from_config` of the models).
"""

from typing import Any

from vgate.fit.errors import FitError

# A shape, and the bytes of a number; None for the model's own type.
Shape = tuple[tuple[int, ...], int | None]

# Those whose layers are Mamba-2's (vllm/model_executor/layers/mamba/mamba_mixer2.py).
MAMBA2 = frozenset({"bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h"})
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": None}


def state_shapes(text: dict[str, Any], kind: str) -> list[Shape]:
    """Return the shapes that one layer keeps.

    Raises:
        FitError: Nobody has taught this module the architecture.
    """
    try:
        return _FAMILIES[kind](text)
    except KeyError as error:
        reason = f" (no {error})" if kind in _FAMILIES else ""
        raise FitError(f"the states of {kind} models can't be computed yet{reason}") from None


def _mamba1(inner: int, state: int, kernel: int) -> list[Shape]:
    return [((kernel - 1, inner), None), ((inner, state), None)]


def _mamba2(
    inner: int, groups: int, heads: int, head: int, state: int, kernel: int, ssm: int | None = None
) -> list[Shape]:
    return [((kernel - 1, inner + 2 * groups * state), None), ((heads, head, state), ssm)]


def _jamba(text: dict[str, Any]) -> list[Shape]:
    inner = int(text["mamba_expand"]) * int(text["hidden_size"])
    return _mamba1(inner, text["mamba_d_state"], text["mamba_d_conv"])


def _plain_mamba(text: dict[str, Any]) -> list[Shape]:
    inner = int(text.get("intermediate_size") or text.get("expand", 2) * text["hidden_size"])
    return _mamba1(inner, text["state_size"], text["conv_kernel"])


def _plain_mamba2(text: dict[str, Any]) -> list[Shape]:
    inner = int(text["expand"] * text["hidden_size"])
    sizes = (text["n_groups"], text["num_heads"], text["head_dim"], text["state_size"])
    return _mamba2(inner, *sizes, text["conv_kernel"])


def _granite(text: dict[str, Any]) -> list[Shape]:
    inner = int(text.get("mamba_d_ssm") or text["mamba_expand"] * text["hidden_size"])
    head, heads = text.get("mamba_d_head"), int(text["mamba_n_heads"])
    head = inner // heads if head in {None, "auto"} else int(str(head))
    sizes = (text["mamba_n_groups"], heads, head, text["mamba_d_state"])
    return _mamba2(inner, *sizes, text["mamba_d_conv"])


def _nemotron(text: dict[str, Any]) -> list[Shape]:
    heads, head = int(text["mamba_num_heads"]), int(text["mamba_head_dim"])
    ssm = _BYTES.get(str(text.get("mamba_ssm_cache_dtype") or "float32"), 4)
    sizes = (text["n_groups"], heads, head, text["ssm_state_size"])
    return _mamba2(heads * head, *sizes, text["conv_kernel"], ssm)


def _gated_delta_net(text: dict[str, Any]) -> list[Shape]:
    keys, values = int(text["linear_num_key_heads"]), int(text["linear_num_value_heads"])
    key, value = int(text["linear_key_head_dim"]), int(text["linear_value_head_dim"])
    conv = (int(text["linear_conv_kernel_dim"]) - 1, 2 * key * keys + value * values)
    ssm = _BYTES.get(str(text.get("mamba_ssm_dtype") or "auto"))
    return [(conv, None), ((values, value, key), ssm)]


def _short_convolution(text: dict[str, Any]) -> list[Shape]:
    inner = int(text.get("conv_dim") or text["hidden_size"])
    return [((int(text["conv_L_cache"]) - 1, inner), None)]


_FAMILIES = {
    "bamba": _granite,
    "falcon_h1": _granite,
    "falcon_mamba": _plain_mamba,
    "granitemoehybrid": _granite,
    "jamba": _jamba,
    "lfm2": _short_convolution,
    "lfm2_moe": _short_convolution,
    "mamba": _plain_mamba,
    "mamba2": _plain_mamba2,
    "nemotron_h": _nemotron,
    "qwen3_5_moe_text": _gated_delta_net,
    "qwen3_5_text": _gated_delta_net,
    "qwen3_next": _gated_delta_net,
}
