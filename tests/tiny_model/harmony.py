"""A tiny model with gpt-oss's special tokens, and a template that asks for the same variables.

The template is much shorter than the published one. It has what that is particular about: which
fields it reads, which it must not find together, what it concatenates, and what it leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_model import write_configs
from tests.tiny_model.tokenizer import write_tokenizer
from tests.tiny_model.weights import MODEL_CONFIG

HARMONY_TOKENS = (
    *("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
    *("<|constrain|>", "<|return|>", "<|call|>"),
)
HARMONY_ENDS = ("<|return|>", "<|call|>")
HARMONY_FORMAT: dict[str, Any] = {
    "special": HARMONY_TOKENS,
    "end": "<|return|>",
    "template": Path(__file__).with_name("harmony_template.jinja").read_text(encoding="utf-8"),
}


# gpt-oss's own architecture, without quantization.
GPT_OSS_CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "vocab_size": MODEL_CONFIG["vocab_size"],
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "attention_bias": True,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "initial_context_length": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def make_harmony_model(
    directory: Path,
    ends: tuple[str, ...] = HARMONY_ENDS,
    config: dict[str, Any] = MODEL_CONFIG,
) -> Path:
    """Write a model without weights into `directory`, created if needed, and return it.

    Args:
        directory: Where the files go; files of the same names are overwritten.
        ends: The tokens that its generation_config.json says end an answer.
        config: Its config.json, but for its tokens.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(directory, vocab_size=config["vocab_size"], **HARMONY_FORMAT)
    write_configs(directory, config, ids, ends)
    return directory
