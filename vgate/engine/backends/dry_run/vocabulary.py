"""The dry-run engine's vocabulary: a model's, or the built-in one."""

import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from vgate.engine.backends.base import BackendError
from vgate.wire import dry_run_vocabulary

# The last message is the longest of this many spans of text before the generation prompt: a
# template may put text of its own, such as a line break, between two messages.
_RECENT_SPANS = 3


class Vocabulary:
    """The vocabulary of the configured model; the built-in one if there is no tokenizer.

    Attributes:
        directory: The model's files; None for the built-in vocabulary.
        special: Tokens that templates put around messages.
        eos: Tokens that end an output.
        end: The one of them that the dry-run engine ends its output with.
        size: Token ids are below it.
    """

    def __init__(self, model_id: str) -> None:
        path = Path(model_id)
        found = (path / "tokenizer.json").is_file()
        self.directory = str(path.resolve()) if found else None
        if self.directory is None:
            self.special = frozenset(dry_run_vocabulary.MARKERS.values())
            self.eos = frozenset({dry_run_vocabulary.END})
            self.end = dry_run_vocabulary.END
            self.size = max(self.special) + 1
            return
        directory = Path(self.directory)
        try:
            document = json.loads((directory / "tokenizer.json").read_bytes())
            added = document["added_tokens"]
            self.special = frozenset(token["id"] for token in added if token["special"])
            self.eos = _eos_token_ids(directory) or self.special
            own = _own_end(directory, added)
            # An embedding model may have none and needs none.
            self.end = own if own in self.eos else min(self.eos, default=0)
            tokens = (document.get("model") or {}).get("vocab") or ()
            self.size = max(len(tokens), *(token["id"] + 1 for token in added), 1)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(f"cannot read the tokenizer in {directory}: {error}") from error

    def last_message(self, prompt: list[int]) -> list[int]:
        """Return the tokens of the conversation's last message."""
        borders = [-1, *(i for i, t in enumerate(prompt) if t in self.special), len(prompt)]
        spans = [prompt[a + 1 : b] for a, b in pairwise(borders)]
        before_generation_prompt = spans[-1 - _RECENT_SPANS : -1] or spans
        return max(before_generation_prompt, key=len) or prompt

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        if self.directory is None:
            return list(text.encode())
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        if self.directory is None:
            plain = bytes(token for token in tokens if token < dry_run_vocabulary.BYTE_TOKENS)
            return plain.decode(errors="replace")
        text: str = self._tokenizer.decode(tokens)
        return text

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer, loaded at first use: only structured output and scripts need it."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(f"{self.directory}/tokenizer.json")


def _own_end(directory: Path, added: list[Any]) -> int | None:
    """Return the tokenizer's own end-of-text token, or None."""
    path = directory / "tokenizer_config.json"
    end = json.loads(path.read_bytes()).get("eos_token") if path.is_file() else None
    text = end.get("content") if isinstance(end, dict) else end
    return next((token["id"] for token in added if token.get("content") == text), None)


def _eos_token_ids(directory: Path) -> frozenset[int]:
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            eos = json.loads(path.read_bytes()).get("eos_token_id")
            if eos is not None:
                return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()
