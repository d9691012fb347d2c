"""Which layers of a model keep something for each token or each sequence, and how much.

The rules are those of vLLM 0.32: transformers' defaults for what config.json leaves out, and the
`get_kv_cache_spec` and `get_mamba_state_shape_from_config` of the model's own layers.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import msgspec

from vgate.fit.errors import FitError
from vgate.fit.families import completed
from vgate.fit.states import MAMBA2, state_shapes

_MLA_TYPES = frozenset(
    {"deepseek_v2", "deepseek_v3", "deepseek_vl_v2", "kimi_k2", "kimi_linear", "glm4_moe_lite"}
    | {"longcat_flash", "pangu_ultra_moe", "axk1"}
)
# Caches beside the usual ones, or several kinds of pages in a block: not computed here.
_NOT_COMPUTED = frozenset(
    {"deepseek_v32", "deepseek_v4", "deepseek_v41", "glm_moe_dsa", "minimax_m3", "qwen4_exp"}
    | {"kimi_k3", "glm5_next", "glm5_next_text", "inkling", "hy_v4", "whisper", "t5", "bart"}
)
_FULL = frozenset({"full_attention", "attention", "global", "global_attention", "*"})
_SLIDING = frozenset({"sliding_attention", "local", "local_attention", "sliding_window_attention"})
_STATES = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "M", "gdn"})
# Those whose layers are all alike without saying so.
_ONE_TYPE = {"falcon_h1": "hybrid", "mamba": "mamba", "mamba2": "mamba", "falcon_mamba": "mamba"}
# Values of another size than the keys.
_VALUES_APART = frozenset({"mimo_v2", "mimo_v2_flash"})
_NOTHING = frozenset({"-", "E", "mlp", "moe", "O"})


class Attention(msgspec.Struct, frozen=True):
    """A layer that keeps keys and values: numbers for each token, and how many tokens.

    Attributes:
        kv_heads, head_size, value_size: MLA keeps one vector, so it has one head and no values.
        window: Only so many of the last tokens are kept; None for all.
        chunk: Only the tokens of the current chunk are kept; None for all.
    """

    kv_heads: int
    head_size: int
    value_size: int
    window: int | None = None
    chunk: int | None = None
    latent: bool = False

    @property
    def elements(self) -> int:
        """Numbers kept for one token."""
        return self.kv_heads * (self.head_size + self.value_size)

    @property
    def keeps_all(self) -> bool:
        """Whether every token of a sequence is kept."""
        return self.window is None and self.chunk is None


class State(msgspec.Struct, frozen=True):
    """A layer that keeps a state of fixed size for each sequence: Mamba, linear attention.

    Attributes:
        checkpoints: More of them that are kept for the prefix cache while a prompt is read.
        drafts: And those after each drafted token, of which one turns out to be right.
    """

    size_bytes: int
    checkpoints: int = 0
    drafts: int = 0


Layer = Attention | State


def cached_layers(
    text: dict[str, Any],
    element_bytes: int,
    state_bytes: int | None = None,
    *,
    drafts: int = 0,
    draft_tokens: int = 0,
) -> list[Layer]:
    """Return the layers of a language model that keep something.

    Args:
        text: The configuration of the language model.
        element_bytes: The size of a number of the model's own type, in which states are kept.
        state_bytes: The size of a number of states, where vLLM's mamba_ssm_cache_dtype is set.
        drafts: How many more layers draft tokens.
        draft_tokens: How many tokens are drafted in a step, by any method.

    Raises:
        FitError: The architecture is not known here.
    """
    text = completed(text)
    kind = str(text.get("model_type") or "")
    if kind in _NOT_COMPUTED or "compress_ratios" in text:
        raise FitError(f"the KV cache of {kind} models can't be computed yet")
    found: list[Layer] = []
    for index, layer_type in enumerate(_layer_types(text, kind)):
        if layer_type in _STATES or layer_type == "hybrid":
            state = _state(text, kind, element_bytes, state_bytes)
            found.append(msgspec.structs.replace(state, drafts=draft_tokens))
        if layer_type not in _STATES | _NOTHING and not _shares(text, index):
            found.append(_attention(text, kind, layer_type))
    return [*found, *(_draft(text, kind, index) for index in range(drafts))]


def _draft(text: dict[str, Any], kind: str, index: int) -> Attention:
    """Return a layer that drafts tokens: it sees everything, but for where its type is named."""
    if kind in _VALUES_APART and text.get("swa_head_dim"):
        size, window = int(text["swa_head_dim"]), int(text.get("sliding_window_size") or 0)
        values = int(text.get("swa_v_head_dim") or size)
        heads = int(text["swa_num_key_value_heads"])
        return Attention(heads, size, values, window=window if window > 0 else None)
    types = text.get("layer_types") or []
    at = int(text["num_hidden_layers"]) + index
    return _attention(text, kind, str(types[at]) if at < len(types) else "full_attention")


def _state(text: dict[str, Any], kind: str, element_bytes: int, state_bytes: int | None) -> State:
    convolution, *states = state_shapes(text, kind)
    shapes = [convolution, *((shape, state_bytes or size) for shape, size in states)]
    size = sum(prod(shape) * (number or element_bytes) for shape, number in shapes)
    return State(size, checkpoints=int(kind in MAMBA2))


def _shares(text: dict[str, Any], index: int) -> bool:
    """Whether a layer uses another's keys and values, as the last ones of Gemma 3n do."""
    first = int(text["num_hidden_layers"]) - int(text.get("num_kv_shared_layers") or 0)
    return index >= first


def _attention(text: dict[str, Any], kind: str, layer_type: str) -> Attention:
    if layer_type not in {*_FULL, *_SLIDING, "chunked_attention", "hybrid"}:
        raise FitError(f"the KV cache of layers of the type {layer_type!r} can't be computed yet")
    window = text.get("sliding_window") if layer_type in _SLIDING else None
    if kind in _MLA_TYPES and text.get("kv_lora_rank") is not None:
        size = int(text["kv_lora_rank"]) + int(text.get("qk_rope_head_dim") or 0)
        return Attention(1, size, 0, latent=True)
    heads, size = kv_heads(text), head_size(text)
    if kind.startswith("gemma4") and layer_type in _FULL:
        size = int(text.get("global_head_dim") or 512)
        if text.get("attention_k_eq_v"):
            heads = int(text.get("num_global_key_value_heads") or heads)
    values = int(text.get("v_head_dim") or size) if kind in _VALUES_APART else size
    chunk = text.get("attention_chunk_size") if layer_type == "chunked_attention" else None
    return Attention(heads, size, values, window=window or None, chunk=chunk)


def kv_heads(text: dict[str, Any]) -> int:
    """Return the number of heads with keys and values of their own."""
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    for key in ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"):
        if text.get(key) is not None:
            return int(text[key])
    return attention_heads(text)


def attention_heads(text: dict[str, Any]) -> int:
    """Return the number of query heads."""
    for key in ("num_attention_heads", "n_head", "num_heads"):
        if text.get(key) is not None:
            return int(text[key])
    raise FitError("config.json names no num_attention_heads")


def head_size(text: dict[str, Any]) -> int:
    """Return the size of a head's keys."""
    for key in ("head_dim", "hidden_size_per_head", "attention_head_dim", "kv_channels"):
        if text.get(key):
            return int(text[key])
    return int(text["hidden_size"]) // attention_heads(text)


def _layer_types(text: dict[str, Any], kind: str) -> list[str]:
    count = int(text.get("num_hidden_layers") or text.get("n_layer") or 0)
    if not count:
        raise FitError("config.json names no num_hidden_layers")
    types = text.get("layer_types") or text.get("layers_block_type")
    types = types or list(str(text.get("hybrid_override_pattern") or ""))  # Nemotron-H
    if types:
        return [str(layer_type) for layer_type in types[:count]]
    if kind in _ONE_TYPE:
        return [_ONE_TYPE[kind]] * count
    attends, other = _pattern(text)
    return ["full_attention" if attends(index) else other for index in range(count)]


def _pattern(text: dict[str, Any]) -> tuple[Callable[[int], bool], str]:
    """Return which layers see everything, and what the others are."""
    if attending := text.get("attn_layer_indices") or text.get("full_attn_idxs"):
        return attending.__contains__, "mamba"
    if period := text.get("attn_layer_period"):  # Jamba
        offset = int(text.get("attn_layer_offset") or 0)
        return (lambda index: index % int(period) == offset), "mamba"
    if interval := text.get("full_attention_interval"):  # Qwen3-Next
        return (lambda index: (index + 1) % int(interval) == 0), "linear_attention"
    if pattern := text.get("sliding_window_pattern"):
        return (lambda index: (index + 1) % int(pattern) == 0), "sliding_attention"
    # A window without a pattern is that of all layers.
    windowed = bool(text.get("sliding_window"))
    return (lambda _: not windowed), "sliding_attention"
