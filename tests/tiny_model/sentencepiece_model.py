"""A tiny Llama model as older ones come: a SentencePiece tokenizer, and other tokens in files.

It has no tokenizer.json, no generation_config.json and no weights: vLLM makes random ones with
`load_format: dummy`. Needs the sentencepiece package, which vLLM's environment has.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.tiny_model.corpus import training_texts
from tests.tiny_model.weights import MODEL_CONFIG

# Characters beyond the model's alphabet become bytes.
_LAST_CHARACTER = "\u017f"
_PIECES = 2000
# As of a model that was fine-tuned for ChatML.
START, END = "<|im_start|>", "<|im_end|>"
ADDED = {END: _PIECES, START: _PIECES + 1}
# The vocabulary's own end, which config.json names.
OWN_END = 2
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_sentencepiece_model(directory: Path) -> Path:
    """Write the model into `directory`, created if needed, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    _train(directory / "tokenizer.model")
    config = {**MODEL_CONFIG, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    documents: dict[str, Any] = {
        "config.json": {**config, "bos_token_id": 1, "eos_token_id": OWN_END},
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": END, "unk_token": "<unk>"},
        "added_tokens.json": ADDED,
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return directory


def _train(path: Path) -> None:
    from sentencepiece import SentencePieceTrainer

    with TemporaryDirectory() as work:
        text = Path(work, "text")
        latin = ("".join(c for c in line if c <= _LAST_CHARACTER) for line in training_texts())
        text.write_text("\n".join(latin), encoding="utf-8")
        SentencePieceTrainer.train(
            input=str(text),
            model_prefix=str(Path(work, "tokenizer")),
            model_type="bpe",
            vocab_size=_PIECES,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            num_threads=1,
            minloglevel=2,
        )
        path.write_bytes(Path(work, "tokenizer.model").read_bytes())
