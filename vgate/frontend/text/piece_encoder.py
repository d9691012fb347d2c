"""Rendered conversations to token ids, piece by piece, each piece tokenised once. Pure.

A tokenizer finds the special tokens of a text first, then tokenises each piece between them by
itself. So pieces can be cached: a growing conversation repeats its system prompt and its turns in
every request. A long text also costs more per character than a short one.
"""

import re
from collections import OrderedDict
from threading import Lock

from tokenizers import Tokenizer, models

from vgate.frontend.text.word_encoder import parts_of, word_encoder

# Size of the cache. A token takes a reference and, at worst, an int object of its own.
_MAX_BYTES = 4 * 1024 * 1024
_ENTRY_BYTES, _TOKEN_BYTES, _CHAR_BYTES = 256, 40, 4
# Pre-tokenizers that treat a piece the same at any position in the text.
_ANYWHERE = frozenset(
    {"Split", "ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
# Looking up the words of a longer piece would hold the GIL for more than a few milliseconds.
_MAX_WORD_CHARS = 65_536


class PieceEncoder:
    """Tokenises text piece by piece with a cache. Safe for any number of threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        # Where two start at the same position, the tokenizer takes the longer one.
        longest_first = sorted(self._special or (), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})").split
        self._words = None if self._special is None else word_encoder(tokenizer)
        self._kept: OrderedDict[str, list[int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def encode(self, text: str) -> list[int]:
        """Tokenise a text."""
        return self._native(text) if self._special is None else self._join(self._split(text))

    def encode_within(self, text: str, max_new_chars: int) -> list[int] | None:
        """Tokenise a text; None if its uncached pieces have more than `max_new_chars`."""
        if len(text) <= max_new_chars:
            return self.encode(text)
        if self._special is None:
            return None
        pieces = self._split(text)
        new = [piece for piece in dict.fromkeys(pieces[::2]) if piece not in self._kept]
        return None if sum(map(len, new)) > max_new_chars else self._join(pieces)

    def _join(self, pieces: list[str]) -> list[int]:
        """Return the tokens of a split text, of which every second piece is a special token."""
        special, kept = self._special or {}, self._kept
        ids: list[int] = []
        for position, piece in enumerate(pieces):
            if position & 1:
                ids.append(special[piece])
            elif piece and piece not in kept:
                ids += self._learn(piece)
            elif piece:
                # Another thread may have evicted it meanwhile.
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
                if piece not in self._kept:  # another thread may have added it
                    self._kept[piece] = ids
                    self._bytes += size
                while self._bytes > _MAX_BYTES:
                    self._bytes -= _size(*self._kept.popitem(last=False))
        return ids

    def _native(self, text: str) -> list[int]:
        # Unlike `encode`, this computes no offsets: a fifth of the time for a short text, a third
        # for a long one.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids


def special_tokens(tokenizer: Tokenizer) -> dict[str, int] | None:
    """Return the ids of the special tokens, which split a text before any other step.

    None if the pieces between them can't be tokenised by themselves, or not always the same way.
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
    # Normalized tokens are searched later, in each piece by itself.
    added = tokenizer.get_added_tokens_decoder().items()
    special = {token_id: token for token_id, token in added if not token.normalized}
    if any(t.single_word or t.lstrip or t.rstrip or not t.content for t in special.values()):
        return None
    return {token.content: token_id for token_id, token in special.items()}


def _size(piece: str, ids: list[int]) -> int:
    return _ENTRY_BYTES + _CHAR_BYTES * len(piece) + _TOKEN_BYTES * len(ids)
