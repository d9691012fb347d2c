"""Rendered conversations to token ids, piece by piece, each piece tokenised once. Pure.

A tokenizer finds the special tokens of a text first, then tokenises each piece between them by
itself. So pieces can be cached: a growing conversation repeats its system prompt and its turns in
every request. A long text also costs more per character than a short one.
"""

import math
import re
from collections import OrderedDict
from itertools import chain, pairwise
from threading import Lock

from tokenizers import Tokenizer, models

from vgate.frontend.text.slices import SLICE_CHARS, Slices
from vgate.frontend.text.tokenizer import TokenLimit, TooMuchAtOnceError
from vgate.frontend.text.word_encoder import parts_of, word_encoder
from vgate.wire.codec import PackedIds, pack_token_ids

# The tokens of a piece, and what `pack_token_ids` makes of them.
_Tokens = tuple[list[int], bytes]
# Size of the cache. A token takes a reference and, at worst, an int object of its own.
_MAX_BYTES = 4 * 1024 * 1024
_ENTRY_BYTES, _TOKEN_BYTES, _CHAR_BYTES = 384, 44, 4
_MODEL_WORDS = 256
# Pre-tokenizers that treat a piece the same at any position in the text.
_ANYWHERE = frozenset(
    {"Split", "ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
)
# Looking up the words of a longer piece would hold the GIL for more than a few milliseconds.
_MAX_WORD_CHARS = 65_536
# Searching more for special tokens would hold the GIL for more than a few milliseconds.
_SEARCH_CHARS = 65_536
# Within what spells a special token and is none. Half of a UTF-16 pair, which no client can send.
SHIELD = "\udfff"


class PieceEncoder:
    """Tokenises text piece by piece with a cache. Safe for any number of threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        if tokenizer.pre_tokenizer is None and isinstance(tokenizer.model, models.BPE):
            # It keeps the last 10,000 words with all their merges. Without a pre-tokenizer these
            # are whole pieces, of several KB each, and the pieces are kept here anyway.
            tokenizer.model._resize_cache(_MODEL_WORDS)  # noqa: SLF001
        self._special = special_tokens(tokenizer)
        ids = (self._special or {}).values()
        self._packed = {token: pack_token_ids([token]) for token in ids}
        # Where two start at the same position, the tokenizer takes the longer one.
        longest_first = sorted(self._special or (), key=len, reverse=True)
        self._longest = len(longest_first[0]) if longest_first else 1
        expression = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._split, self._find = expression.split, expression.search
        # Also those that begin within others.
        self._find_all = re.compile(f"(?={expression.pattern})").finditer
        self._words = None if self._special is None else word_encoder(tokenizer)
        added = tokenizer.get_added_tokens_decoder().values()
        # The others among them are words that a tokenizer keeps whole.
        self._marks = frozenset(token.content for token in added if token.special)
        others = (token.content for token in added if token.content not in (self._special or ()))
        self._slices = Slices(tokenizer, others)
        self._kept: OrderedDict[tuple[str | None, str], _Tokens] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def encode(
        self, text: str, limit: TokenLimit | None = None, scope: str | None = ""
    ) -> list[int]:
        """Tokenise a text, as far as a limit needs it; without a scope nothing is kept."""
        return self._join(self._pieces(text), limit, scope)

    def shielded(self, text: str) -> str:
        """Return a text with a shield behind the first character of each special token."""
        begun: list[int] = []
        for start in range(0, len(text) if self._special else 0, _SEARCH_CHARS):
            end = start + _SEARCH_CHARS
            bounds = start, end + self._longest
            if self._find(text, *bounds):  # in a hundredth of the time
                begun += [
                    found.start() + 1
                    for found in self._find_all(text, *bounds)
                    if found.start() < end and found[1] in self._marks
                ]
        if not begun:
            return text
        return SHIELD.join([text[a:b] for a, b in pairwise((0, *begun, len(text)))])

    def encode_within(
        self, text: str, max_new_chars: int, limit: TokenLimit | None = None, scope: str | None = ""
    ) -> list[int]:
        """Tokenise a text, unless its uncached pieces have more than `max_new_chars`.

        Of those, as many are cached then.
        """
        if len(text) <= max_new_chars:
            return self.encode(text, limit, scope)
        if self._special is None:
            raise TooMuchAtOnceError
        pieces = self._pieces(text)
        kept, special = self._kept, self._special
        new = {p for p in pieces if p and (scope, p) not in kept and p not in special}
        learnt = 0
        # A long one may never fit.
        for piece in sorted(new, key=len):
            learnt += len(piece)
            if learnt > max_new_chars:
                raise TooMuchAtOnceError(less_is_left=learnt > len(piece))
            self._learn(piece, scope)
        return self._join(pieces, limit, scope)

    def _pieces(self, text: str) -> list[str]:
        """Return the special tokens of a text and what is between them, cut where it is long."""
        if len(text) <= _SEARCH_CHARS:
            pieces = self._split(text)
            if len(text) <= 2 * SLICE_CHARS or max(map(len, pieces)) <= 2 * SLICE_CHARS:
                return pieces
            # Every second one is a special token.
            cut = [[p] if place & 1 else self._slices.of(p) for place, p in enumerate(pieces)]
            return [*chain.from_iterable(cut)]
        pieces = []
        start = position = 0
        while position < len(text):
            # Without it a search could take long.
            end = min(len(text), position + _SEARCH_CHARS)
            found = self._find(text, position, end)
            if end < len(text) and (found is None or found.start() > end - self._longest):
                # One may begin here and end, or become a longer one, after the end.
                position = end - self._longest + 1
            elif found is None:
                break
            else:
                pieces += self._slices.of(text[start : found.start()])
                pieces.append(found[0])
                start = position = found.end()
        pieces += self._slices.of(text[start:])
        return pieces

    def _join(self, pieces: list[str], limit: TokenLimit | None, scope: str | None) -> list[int]:
        """Return the tokens of a text in pieces; only those at one end if a limit needs no more."""
        if limit is not None and limit.side == "left":
            last: list[list[int]] = []
            count = 0
            while pieces and count < limit.keep:
                last.append(self._tokens_of(pieces.pop(), scope)[0])
                count += len(last[-1])
            return [*chain.from_iterable(reversed(last))]
        special = self._special or {}
        tokens_of = self._tokens_of if self._special is None else self._again
        most = math.inf if limit is None else limit.keep
        ids, packed = PackedIds(), []
        for position, piece in enumerate(pieces, 1):
            if (token := special.get(piece)) is not None:
                ids.append(token)
                packed.append(self._packed[token])
            elif piece:
                found, as_bytes = tokens_of(piece, scope)
                ids += found
                packed.append(as_bytes)
            if len(ids) > most and limit is not None and position < len(pieces):
                limit.stop(len(ids))
                break
        ids.packed = b"".join(packed)
        return ids

    def _again(self, piece: str, scope: str | None) -> _Tokens:
        """Return the tokens of a piece that is no special token, as kept if they are."""
        key = scope, piece
        try:
            self._kept.move_to_end(key)
            return self._kept[key]
        except KeyError:  # it is new, or another thread has evicted it meanwhile
            return self._learn(piece, scope)

    def _tokens_of(self, piece: str, scope: str | None) -> _Tokens:
        if not piece:
            return [], b""
        if self._special is None:
            ids = self._native(piece.replace(SHIELD, ""))
            return ids, pack_token_ids(ids)
        token = self._special.get(piece)
        return self._again(piece, scope) if token is None else ([token], self._packed[token])

    def _learn(self, piece: str, scope: str | None) -> _Tokens:
        ids = None
        if SHIELD in piece:
            ids = self._ordinary(piece.replace(SHIELD, ""))
        elif self._words is not None and len(piece) <= _MAX_WORD_CHARS and piece.isascii():
            ids = self._words.encode(piece)
        if ids is None:
            ids = self._native(piece)
        tokens = ids, pack_token_ids(ids)
        if scope is None:
            return tokens
        size = _size((scope, piece), tokens)
        if size <= _MAX_BYTES // 4:
            with self._lock:
                if (scope, piece) not in self._kept:  # another thread may have added it
                    self._kept[scope, piece] = tokens
                    self._bytes += size
                while self._bytes > _MAX_BYTES:
                    self._bytes -= _size(*self._kept.popitem(last=False))
        return tokens

    def _ordinary(self, text: str) -> list[int]:
        """Return the tokens of a text in which nothing is a special token."""
        tokenizer = self._tokenizer
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        words = [text]
        if tokenizer.pre_tokenizer is not None:
            words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        tokenize = tokenizer.model.tokenize
        return [token.id for word in words for token in tokenize(word)]

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


def _size(key: tuple[str | None, str], tokens: _Tokens) -> int:
    return _ENTRY_BYTES + _CHAR_BYTES * len(key[1]) + _TOKEN_BYTES * len(tokens[0])
