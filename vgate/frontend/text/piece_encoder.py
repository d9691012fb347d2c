"""Rendered conversations to token ids, piece by piece, each piece tokenised once. Pure.

A tokenizer finds the special tokens of a text first and then tokenises what is between them, each
piece by itself. So the pieces can be tokenised one by one and be remembered: a system prompt and
the turns of a growing conversation come again with every request. A long text also costs more per
character than a short one.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

from tokenizers import Tokenizer, models

from vgate.frontend.text.word_encoder import parts_of, word_encoder

# Of the pieces that are remembered. A token takes a reference and, at worst, a number of its own.
_MAX_BYTES = 4 * 1024 * 1024
_ENTRY_BYTES, _TOKEN_BYTES, _CHAR_BYTES = 256, 40, 4
# Pre-tokenizers that treat a piece alike wherever it is.
_ANYWHERE = frozenset(
    {"Split", "ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
# Looking up the words of a longer piece would hold the GIL for more than a few milliseconds.
_MAX_WORD_CHARS = 65_536


class PieceEncoder:
    """See the module. For any number of threads.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        self._split = _splitter(self._special or ())
        self._words = None if self._special is None else word_encoder(tokenizer)
        self._kept: OrderedDict[str, list[int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def encode(self, text: str) -> list[int]:
        """Tokenise a text."""
        return self._native(text) if self._special is None else self._join(self._split(text))

    def encode_within(self, text: str, max_new_chars: int) -> list[int] | None:
        """Tokenise a text unless more of its characters are in pieces that aren't remembered."""
        if len(text) <= max_new_chars:
            return self.encode(text)
        if self._special is None:
            return None
        pieces = self._split(text)
        new = [piece for piece in dict.fromkeys(pieces[::2]) if piece not in self._kept]
        return None if sum(map(len, new)) > max_new_chars else self._join(pieces)

    def _join(self, pieces: list[str]) -> list[int]:
        """Return the tokens of a text that was cut: every second piece is a special token."""
        special, kept = self._special or {}, self._kept
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            if place & 1:
                ids.append(special[piece])
            elif piece:
                # Another thread may drop it between the two steps.
                try:
                    kept.move_to_end(piece)
                    ids += kept[piece]
                except KeyError:
                    ids += self._learn(piece)
        return ids

    def _learn(self, piece: str) -> list[int]:
        ids = None
        if self._words is not None and len(piece) <= _MAX_WORD_CHARS and piece.isascii():
            ids = self._words.encode(piece)
        if ids is None:
            ids = self._native(piece)
        size = _size(piece, ids)
        if size <= _MAX_BYTES // 4:
            with self._lock:
                self._keep(piece, ids, size)
        return ids

    def _native(self, text: str) -> list[int]:
        # Unlike `encode`, this computes no offsets, which nobody needs here: a fifth of the time
        # for a short text, a third for a long one.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def _keep(self, piece: str, ids: list[int], size: int) -> None:
        if piece in self._kept:  # another thread has just learnt it
            return
        self._kept[piece] = ids
        self._bytes += size
        while self._bytes > _MAX_BYTES:
            self._bytes -= _size(*self._kept.popitem(last=False))


def special_tokens(tokenizer: Tokenizer) -> dict[str, int] | None:
    """Return the ids of the tokens that cut a text before anything else is done with it.

    None if pieces between them can't be tokenised by themselves, or not always alike.
    """
    model = tokenizer.model
    steps = parts_of(tokenizer.pre_tokenizer)
    if (
        not isinstance(model, models.BPE)
        or model.dropout
        or tokenizer.encode_special_tokens
        or any(step["type"] not in _ANYWHERE for step in steps)
    ):
        return None
    found = {}
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.normalized:
            # Searched later, and in each piece by itself.
            continue
        if token.single_word or token.lstrip or token.rstrip or not token.content:
            return None
        found[token.content] = number
    return found


def _splitter(special: Iterable[str]) -> Callable[[str], list[str]]:
    # Where two begin at one place, the tokenizer takes the longer one.
    longest_first = sorted(special, key=len, reverse=True)
    if not longest_first:
        return lambda text: [text]
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})").split


def _size(piece: str, ids: list[int]) -> int:
    return _ENTRY_BYTES + _CHAR_BYTES * len(piece) + _TOKEN_BYTES * len(ids)
