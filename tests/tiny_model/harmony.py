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


def make_harmony_model(directory: Path, ends: tuple[str, ...] = HARMONY_ENDS) -> Path:
    """Write a model without weights into `directory`, created if needed, and return it.

    Args:
        directory: Where the files go; files of the same names are overwritten.
        ends: The tokens that its generation_config.json says end an answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(directory, vocab_size=MODEL_CONFIG["vocab_size"], **HARMONY_FORMAT)
    write_configs(directory, MODEL_CONFIG, ids, ends)
    return directory
