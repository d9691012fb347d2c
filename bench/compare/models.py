"""The models that contenders serve: a tiny one with weights, and a large vocabulary without."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.load.prompts import WORDS

VOCABULARY = 150_000


class Models:
    """Makes each model directory when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def tiny(self) -> Path:
        """Return a model that an engine can load."""
        return self._made("tiny", weights=True)

    def large_vocabulary(self) -> Path:
        """Return a tokenizer of 150,000 tokens, in which every word of a prompt is one token."""
        directory = self._directory / "large-vocabulary"
        if not directory.is_dir():
            shutil.copytree(self._made("tokenizer", weights=False), directory)
            _enlarge(directory / "tokenizer.json", VOCABULARY)
        return directory

    def _made(self, name: str, *, weights: bool) -> Path:
        from tests.tiny_model import make_tiny_model

        directory = self._directory / name
        if not directory.is_dir():
            make_tiny_model(directory, weights=weights)
        return directory


def _enlarge(path: Path, size: int) -> None:
    """Add merges to a byte-level BPE tokenizer until it has `size` tokens.

    The words of the load generator's prompts come first, so that each is one token, as with a real
    vocabulary. The others are pairs of tokens that no text contains. Memory and the time to load
    are those of a real vocabulary of that size, which has as many entries and merges.
    """
    document = json.loads(path.read_bytes())
    model = document["model"]
    # Otherwise a special token outside the vocabulary would get a new id in the larger one.
    for token in document["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    while _add_words(document):
        pass
    tokens = list(model["vocab"])
    # Their middle is an unusual byte.
    unusual = [token for token in tokens if len(token) == 1 and ord(token) > 0xA0]
    for left, right in product(filter(str.isalpha, tokens), unusual):
        if len(model["vocab"]) >= size:
            break
        if left + right not in model["vocab"]:
            _merge(model, left, right)
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
