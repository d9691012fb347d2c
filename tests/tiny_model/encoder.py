"""A tiny BERT with random weights that reads a pair of texts, or one, and tells classes apart.

Or a tiny RoBERTa, as bge-reranker is: without token types, and with other special tokens.
"""

from __future__ import annotations

import json
import random
from array import array
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

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
_OF_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_ROLES_OF_ROBERTA = ("bos", "pad", "eos", "unk", "mask")
# RoBERTa's positions begin after the padding's, which is 1.
_FIRST_POSITION = 2


def make_tiny_encoder(directory: Path, labels: list[str], *, roberta: bool = False) -> Path:
    """Write the model into `directory`, created if needed, and return it.

    One label makes it a cross-encoder, whose output is a score.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = _roberta_tokenizer() if roberta else _tokenizer()
    made.save(str(directory / "tokenizer.json"))
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_TOKENS,
        **{f"{token[1:-1].lower()}_token": token for token in _SPECIAL},
    }
    if roberta:
        roles = zip(_ROLES_OF_ROBERTA, _OF_ROBERTA, strict=True)
        tokenizer = {
            "tokenizer_class": "RobertaTokenizer",
            "model_max_length": MAX_TOKENS,
            **{f"{role}_token": token for role, token in roles},
            "cls_token": "<s>",
            "sep_token": "</s>",
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
    if roberta:
        config |= {
            "architectures": ["RobertaForSequenceClassification"],
            "model_type": "roberta",
            "max_position_embeddings": MAX_TOKENS + _FIRST_POSITION,
            "type_vocab_size": 1,
            "pad_token_id": 1,
        }
    for name, document in (("tokenizer_config.json", tokenizer), ("config.json", config)):
        (directory / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    weights = _weights(len(labels), roberta=roberta)
    write_checkpoint(directory / "model.safetensors", weights)
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


def _roberta_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=_OF_ROBERTA,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return tokenizer


def _weights(classes: int, *, roberta: bool) -> Iterator[tuple[str, tuple[int, ...], array[float]]]:
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

    body = "roberta" if roberta else "bert"
    positions, types = (MAX_TOKENS + _FIRST_POSITION, 1) if roberta else (MAX_TOKENS, 2)
    at = f"{body}.embeddings"
    yield drawn(f"{at}.word_embeddings.weight", _VOCAB_SIZE, _HIDDEN, width=4.0)
    yield drawn(f"{at}.position_embeddings.weight", positions, _HIDDEN, width=1.0)
    # As strong as the words, so that it shows which text a token is of.
    yield drawn(f"{at}.token_type_embeddings.weight", types, _HIDDEN, width=4.0)
    yield from norm(f"{at}.LayerNorm")
    for layer in range(_LAYERS):
        at = f"{body}.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from linear(f"{at}.attention.self.{part}", _HIDDEN, _HIDDEN)
        yield from linear(f"{at}.attention.output.dense", _HIDDEN, _HIDDEN)
        yield from norm(f"{at}.attention.output.LayerNorm")
        yield from linear(f"{at}.intermediate.dense", _INNER, _HIDDEN)
        yield from linear(f"{at}.output.dense", _HIDDEN, _INNER)
        yield from norm(f"{at}.output.LayerNorm")
    yield from linear("classifier.dense" if roberta else "bert.pooler.dense", _HIDDEN, _HIDDEN)
    yield from linear("classifier.out_proj" if roberta else "classifier", classes, _HIDDEN)
