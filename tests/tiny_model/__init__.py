"""A tiny Qwen2 model with random weights, so that tests need no download.

It answers in milliseconds on a CPU, yet every file has the form of a real checkpoint: a byte-level
BPE tokenizer with special tokens, a ChatML template with tool calls, two EOS ids. Its text means
nothing; it is deterministic, it varies, and it is the same on every Python and every machine.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.tiny_model.tokenizer import write_tokenizer
from tests.tiny_model.weights import MODEL_CONFIG, write_adapter_weights, write_weights

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_tiny_adapter", "make_tiny_model", "write_configs"]


def make_tiny_model(directory: Path, *, weights: bool = True, thinking: bool = False) -> Path:
    """Write the model into `directory`, created if needed, and return it.

    Args:
        directory: Where the files go; files of the same names are overwritten.
        weights: False leaves out model.safetensors, which is enough for everything that only
            reads the configuration, the tokenizer or the chat template.
        thinking: The vocabulary and the template of a model that thinks, as Qwen3's: `<think>` and
            `</think>` are tokens, and with `enable_thinking=False` the template closes them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocab_size = MODEL_CONFIG["vocab_size"]
    token_ids = write_tokenizer(directory, vocab_size=vocab_size, thinking=thinking)
    write_configs(directory, MODEL_CONFIG, token_ids)
    if weights:
        write_weights(directory / "model.safetensors")
    return directory


def write_configs(
    directory: Path,
    model: dict[str, Any],
    token_ids: dict[str, int],
    ends: tuple[str, ...] = ("<|im_end|>",),
) -> None:
    """Write config.json and generation_config.json of a model with these tokens, by text."""
    end_of_text, end_of_turn = token_ids["<|endoftext|>"], token_ids[ends[0]]
    config = {**model, "bos_token_id": end_of_text, "eos_token_id": end_of_turn}
    # No temperature, top_p or top_k here: servers take them as defaults, and a request that sends
    # none of them would then no longer mean what the OpenAI API says.
    generation_config = {
        "bos_token_id": end_of_text,
        "eos_token_id": [*(token_ids[end] for end in ends), end_of_text],
        "pad_token_id": end_of_text,
    }
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", generation_config)


def make_tiny_adapter(directory: Path, *, rank: int = 4, seed: int = 1) -> Path:
    """Write a LoRA adapter of the model into `directory`, created if needed, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    _write_json(directory / "adapter_config.json", config)
    write_adapter_weights(directory / "adapter_model.safetensors", rank=rank, seed=seed)
    return directory


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
