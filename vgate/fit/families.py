"""What config.json may leave out, by model type: transformers 5's own defaults."""

from typing import Any

from vgate.fit.errors import FitError

_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_GEMMA_SIZES = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
_QWEN_LINEAR = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
}
_GRANITE_STATES = {
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_d_state": 256,
    "mamba_n_heads": 128,
}
# (transformers/models/*/configuration_*.py)
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {
        **_GEMMA,
        **_GEMMA_SIZES,
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        **_GEMMA,
        **_GEMMA_SIZES,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
    "gemma3n_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "num_hidden_layers": 35,
        "num_kv_shared_layers": 15,
        "sliding_window": 512,
        "sliding_window_pattern": 5,
        "hidden_size": 2048,
        "vocab_size": 262_400,
    },
    "gemma4_text": {
        **_GEMMA,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "num_hidden_layers": 30,
        "vocab_size": 262_144,
        "max_position_embeddings": 131_072,
    },
    "mistral": {"sliding_window": 4096, "num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8},
    "gpt_oss": {
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "sliding_window_pattern": 2,
    },
    "qwen3_next": _QWEN_LINEAR,
    "qwen3_5_text": _QWEN_LINEAR,
    "qwen3_5_moe_text": _QWEN_LINEAR,
    "jamba": {
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_expand": 2,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "num_key_value_heads": 8,
    },
    "granitemoehybrid": _GRANITE_STATES,
    "bamba": {**_GRANITE_STATES, "num_key_value_heads": 8},
    "lfm2": {"conv_L_cache": 3},
}
# Those that name a window for the layers from max_window_layers on, which vLLM refuses to run; with
# layer_types they mean it.
_WINDOW_IF_USED = ("qwen2", "qwen3")
# Models that vLLM runs without the window that their configuration has.
_NO_WINDOW = frozenset({"phi3small"})


# Sizes that a configuration may leave out but not get wrong, and the most layers that are believed.
_COUNTS = (
    *("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "head_dim"),
    *("num_key_value_heads", "max_position_embeddings", "sliding_window", "kv_lora_rank"),
    *("qk_rope_head_dim", "num_kv_shared_layers", "num_experts_per_tok", "moe_intermediate_size"),
    *("sliding_window_pattern", "full_attention_interval", "attn_layer_period", "global_head_dim"),
    *("attention_chunk_size", "attn_layer_offset", "n_layer", "n_head", "num_heads"),
    *("num_kv_heads", "n_head_kv", "multi_query_group_num", "num_global_key_value_heads"),
    *("hidden_size_per_head", "attention_head_dim", "kv_channels", "v_head_dim"),
)
_POSITIVE = frozenset(
    {"hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads"}
    | {"n_layer", "n_head", "num_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"}
)
_MOST_LAYERS, _MOST = 10_000, 1 << 32
# How many layers draft tokens.
DRAFT_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
# Tokens that are drafted in a step by such layers, and from the text so far, if it isn't told.
MTP_TOKENS, NGRAM_TOKENS = 1, 4
# Those whose first such layer alone is used (vllm/model_executor/models/mimo_v2_mtp.py).
_ONE_DRAFT_LAYER = frozenset({"mimo_v2", "mimo_v2_flash"})


def check_numbers(text: dict[str, Any]) -> None:
    """Raise FitError if a size in a configuration is none."""
    for key in (*_COUNTS, *DRAFT_LAYERS):
        value = text.get(key)
        most = _MOST_LAYERS if key.endswith(("_layers", "n_layer")) else _MOST
        least = 1 if key in _POSITIVE else 0
        if value is None or (type(value) is int and least <= value <= most):
            continue
        raise FitError(f"config.json has {key}: {value!r:.40}, which is no size")


def draft_count(config: dict[str, Any], text: dict[str, Any]) -> int:
    """Return how many layers that draft tokens a configuration names, as far as vLLM uses them.

    `text` is the part of `config` for the language model.
    """
    named = (part.get(key) for part in (text, config) for key in DRAFT_LAYERS)
    count = next((value for value in named if value), 0)
    if type(count) is not int or not 0 <= count <= _MOST_LAYERS:
        raise FitError(f"config.json has {count!r:.40} layers for drafts, which is no number")
    return min(count, 1) if text.get("model_type") in _ONE_DRAFT_LAYER else count


def completed(text: dict[str, Any]) -> dict[str, Any]:
    """Return a language model's configuration with what it leaves out."""
    kind = str(text.get("model_type") or "")
    full = {**_DEFAULTS.get(kind, {}), **text}
    if kind in _NO_WINDOW or (kind.startswith(_WINDOW_IF_USED) and not text.get("layer_types")):
        full["sliding_window"] = None
    return full


def tied(config: dict[str, Any], text: dict[str, Any], *, has_head: bool) -> bool:
    """Whether the model's last layer is its embedding, so that it is held once.

    `text` is the part of `config` for the language model. `has_head` is whether the checkpoint has
    a last layer of its own.
    """
    for part in (text, config):
        if part.get("tie_word_embeddings") is not None:
            return bool(part["tie_word_embeddings"])
    return not has_head or str(text.get("model_type")).startswith("gemma")
