"""A tiny BERT with random weights that reads a pair of texts, or one, and tells classes apart."""

from __future__ import annotations

import json
import random
from array import array
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from tests.tiny_model.corpus import training_texts
from tests.tiny_model.weights import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_TOKENS = 128
_VOCAB_SIZE = 1024
_HIDDEN = 64
_INNER = 128
_LAYERS = 2
_SEED = 7
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tiny_encoder(directory: Path, labels: list[str]) -> Path:
    """Write the model into `directory`, created if needed, and return it.

    One label makes it a cross-encoder, whose output is a score.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_TOKENS,
        **{f"{token[1:-1].lower()}_token": token for token in _SPECIAL},
    }
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "max_position_embeddings": MAX_TOKENS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "torch_dtype": "float32",
    }
    for name, document in (("tokenizer_config.json", tokenizer), ("config.json", config)):
        (directory / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_checkpoint(directory / "model.safetensors", _weights(len(labels)))
    return directory


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(
        vocab_size=_VOCAB_SIZE, special_tokens=_SPECIAL, limit_alphabet=200, show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, _SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _weights(classes: int) -> Iterator[tuple[str, tuple[int, ...], array[float]]]:
    source = random.Random(_SEED)

    def drawn(name: str, *shape: int, width: float) -> tuple[str, tuple[int, ...], array[float]]:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        return name, shape, array("f", [(source.random() - 0.5) * width for _ in range(count)])

    def linear(name: str, out: int, size: int) -> Iterator[Any]:
        yield drawn(f"{name}.weight", out, size, width=6 * size**-0.5)
        yield drawn(f"{name}.bias", out, width=1.0)

    def norm(name: str) -> Iterator[Any]:
        yield f"{name}.weight", (_HIDDEN,), array("f", [1.0]) * _HIDDEN
        yield f"{name}.bias", (_HIDDEN,), array("f", [0.0]) * _HIDDEN

    at = "bert.embeddings"
    yield drawn(f"{at}.word_embeddings.weight", _VOCAB_SIZE, _HIDDEN, width=4.0)
    yield drawn(f"{at}.position_embeddings.weight", MAX_TOKENS, _HIDDEN, width=1.0)
    # As strong as the words, so that it shows which text a token is of.
    yield drawn(f"{at}.token_type_embeddings.weight", 2, _HIDDEN, width=4.0)
    yield from norm(f"{at}.LayerNorm")
    for layer in range(_LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from linear(f"{at}.attention.self.{part}", _HIDDEN, _HIDDEN)
        yield from linear(f"{at}.attention.output.dense", _HIDDEN, _HIDDEN)
        yield from norm(f"{at}.attention.output.LayerNorm")
        yield from linear(f"{at}.intermediate.dense", _INNER, _HIDDEN)
        yield from linear(f"{at}.output.dense", _HIDDEN, _INNER)
        yield from norm(f"{at}.output.LayerNorm")
    yield from linear("bert.pooler.dense", _HIDDEN, _HIDDEN)
    yield from linear("classifier", classes, _HIDDEN)
