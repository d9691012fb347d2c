"""The models that contenders serve: a tiny one with weights, and a large vocabulary without."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.load.prompts import WORDS

VOCABULARY = 150_000
_MAX_PASSES = 8


class Models:
    """Makes each model directory when it is first wanted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def tiny(self) -> Path:
        """Return a model that an engine can load."""
        return self._made("tiny", weights=True)

    def large_vocabulary(self) -> Path:
        """Return a tokenizer of 150,000 tokens, in which every word of a prompt is one."""
        directory = self._directory / "large-vocabulary"
        if not (directory / "tokenizer.json").is_file():
            source = self._made("tokenizer", weights=False)
            directory.mkdir(parents=True)
            for path in source.iterdir():
                (directory / path.name).write_bytes(path.read_bytes())
            enlarge(directory / "tokenizer.json", VOCABULARY)
        return directory

    def _made(self, name: str, *, weights: bool) -> Path:
        # The tests' model: it is part of the clone, and so is this program.
        from tests.tiny_model import make_tiny_model

        directory = self._directory / name
        if not (directory / "tokenizer.json").is_file():
            make_tiny_model(directory, weights=weights)
        return directory


def enlarge(path: Path, size: int) -> None:
    """Add merges to a byte-level BPE tokenizer until it has `size` tokens.

    First come the words of the load generator's prompts, so that a word is a token as it is with a
    real vocabulary; the rest are pairs of tokens that no text needs. Memory and the time to load
    are those of a real vocabulary of that size: as many entries, as many merges.
    """
    document = json.loads(path.read_bytes())
    model = document["model"]
    # A special token that is no part of the vocabulary would get another id by the larger one.
    for token in document["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    for _ in range(_MAX_PASSES):
        if not _add_words(document):
            break
    _fill(model, size)
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _add_words(document: dict[str, Any]) -> bool:
    """Add the merges that make each word a token; return whether any was missing."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    added: set[tuple[str, str]] = set()
    for word in (*WORDS, *(f" {word}" for word in WORDS)):
        left, *rest = tokenizer.encode(word, add_special_tokens=False).tokens
        for right in rest:
            if (left, right) not in added:
                _merge(document["model"], left, right)
                added.add((left, right))
            left += right
    return bool(added)


def _merge(model: dict[str, Any], left: str, right: str) -> None:
    model["vocab"].setdefault(left + right, len(model["vocab"]))
    model["merges"].append([left, right])


def _fill(model: dict[str, Any], size: int) -> None:
    vocabulary: dict[str, int] = model["vocab"]
    for left, right in _pairs(list(vocabulary)):
        if len(vocabulary) >= size:
            return
        if left + right not in vocabulary:
            _merge(model, left, right)
    raise ValueError(f"only {len(vocabulary)} of {size} tokens")


def _pairs(tokens: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs that make texts which no prompt contains: their middle is an unusual byte."""
    unusual = [token for token in tokens if len(token) == 1 and ord(token) > 0xA0]
    ordinary = [token for token in tokens if token.isalpha()]
    return product(ordinary, unusual)
