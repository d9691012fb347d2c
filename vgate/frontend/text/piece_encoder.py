"""Rendered conversations to token ids, piece by piece, each piece tokenised once. Pure.

A tokenizer looks for the special tokens of a text first, and then tokenises what is between them,
each piece by itself. So the pieces may as well be tokenised one by one and be remembered: a system
prompt and the turns of a growing conversation come again with every request. And long texts cost
the tokenizer more a character than short ones.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from tokenizers import Tokenizer, models

from vgate.frontend.text.word_encoder import parts_of, word_encoder

# Of the pieces that are remembered. A token takes a reference and, at worst, a number of its own.
_MAX_BYTES = 4 * 1024 * 1024
_ENTRY_BYTES, _TOKEN_BYTES, _CHAR_BYTES = 256, 40, 4
# Pre-tokenizers that treat a piece alike wherever it is.
_ANYWHERE = frozenset(
    {"Split", "ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
# How much faster words are looked up than tokenised.
_WORDS_FASTER = 4


class PieceEncoder:
    """See the module. For one thread, but for `encode_each`.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = borders(tokenizer)
        self._split = _splitter(self._special or ())
        self._words = None if self._special is None else word_encoder(tokenizer)
        self._kept: OrderedDict[str, list[int]] = OrderedDict()
        self._bytes = 0

    def encode(self, text: str) -> list[int]:
        """Tokenise a text."""
        if self._special is None:
            return self._native(text)
        return self.join(self.split(text), {})

    def split(self, text: str) -> list[str]:
        """Cut a text: every second piece is a special token."""
        return [text] if self._special is None else self._split(text)

    def unknown(self, pieces: list[str]) -> list[str]:
        """Return the pieces that aren't remembered, each once."""
        return [piece for piece in dict.fromkeys(pieces[::2]) if piece not in self._kept]

    def work(self, pieces: Iterable[str]) -> int:
        """Return the work of tokenising pieces by words where that can be.

        In characters for the tokenizer, which does the rest.
        """
        if self._words is None:
            return sum(map(len, pieces))
        return sum(len(p) // _WORDS_FASTER if p.isascii() else len(p) for p in pieces)

    def by_words(self, pieces: Iterable[str]) -> dict[str, list[int]]:
        """Return the tokens of those pieces that have few words which are new."""
        words = self._words
        if words is None:
            return {}
        found = ((piece, words.encode(piece)) for piece in pieces if piece.isascii())
        return {piece: ids for piece, ids in found if ids is not None}

    def encode_each(self, pieces: list[str]) -> list[list[int]]:
        """Tokenise pieces on any thread; others run meanwhile."""
        return [self._native(piece) for piece in pieces]

    def join(self, pieces: list[str], known: dict[str, list[int]]) -> list[int]:
        """Return the tokens of a text that was cut.

        Args:
            pieces: The text.
            known: Tokens of some pieces; what else isn't remembered is tokenised here.
        """
        ids: list[int] = []
        kept = self._kept
        special = self._special or {}
        for place, piece in enumerate(pieces):
            if place & 1:
                ids.append(special[piece])
            elif (found := kept.get(piece)) is not None:
                kept.move_to_end(piece)
                ids += found
            elif piece:
                found = known.get(piece)
                if found is None:
                    found = self._encode(piece)
                self._keep(piece, found)
                ids += found
        return ids

    def _encode(self, piece: str) -> list[int]:
        if self._words is not None and piece.isascii():
            ids = self._words.encode(piece)
            if ids is not None:
                return ids
        return self._native(piece)

    def _native(self, text: str) -> list[int]:
        # Unlike `encode`, this leaves out the offsets, which nobody here needs: a fifth of the time
        # for a short text, a third for a long one.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def _keep(self, piece: str, ids: list[int]) -> None:
        size = _size(piece, ids)
        if size > _MAX_BYTES // 4:
            return
        self._kept[piece] = ids
        self._bytes += size
        while self._bytes > _MAX_BYTES:
            self._bytes -= _size(*self._kept.popitem(last=False))


def borders(tokenizer: Tokenizer) -> dict[str, int] | None:
    """Return the ids of the tokens that cut a text before anything else is done with it.

    None where pieces between them can't be tokenised by themselves, or not always alike.
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
            # Looked for later, and in each piece by itself.
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
