"""Token ids to text: of single tokens, and of a sequence step by step. Pure.

The text of a sequence equals vLLM's own detokenizer's for the same ids: both use a stream that
knows the end of the prompt, and neither emits bytes that never become a character.
"""

from functools import lru_cache

from vgate.frontend.text.tokenizer import DecodeStep, Tokenizer

_REPLACEMENT = "\ufffd"
# Tokens to remember, about 150 bytes each. A language uses fewer; a full table is cleared, which
# costs one decoding for each token.
_MAX_TEXTS = 16_384
# Prompt tokens to prime the stream with. Only what joins onto the answer matters: a token's leading
# space, or the first bytes of a character.
_PRIME_TOKENS = 16
# A character has at most this many tokens before its last: UTF-8 has four bytes (RFC 3629).
_MAX_CUT_TOKENS = 3


class TokenTexts:
    """The texts of single tokens of a vocabulary, each computed once.

    A token is bytes, and not always whole characters: then its text has replacement characters,
    and its bytes are exact.

    Attributes:
        tokenizer: The model's.
        bytes_of: Returns a token's bytes; b"" for an unknown id.
        byte_values_of: The same as numbers.
        text_of: Returns a token's text by itself, special tokens included.
        is_special: Returns whether a token is left out where special tokens are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # Log probabilities name the same few tokens over and over.
        self.bytes_of = lru_cache(maxsize=65_536)(tokenizer.bytes_of)
        self.byte_values_of = lru_cache(maxsize=65_536)(self._byte_values_of)
        self.text_of = lru_cache(maxsize=65_536)(self._text_of)
        self.is_special = lru_cache(maxsize=65_536)(self._is_special)
        self._tables: dict[bool, dict[int, str | None]] = {True: {}, False: {}}

    def _byte_values_of(self, token_id: int) -> tuple[int, ...]:
        return tuple(self.bytes_of(token_id))

    def _text_of(self, token_id: int) -> str:
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def _is_special(self, token_id: int) -> bool:
        decode, ids = self.tokenizer.decode, [token_id]
        return decode(ids, skip_special_tokens=True) != decode(ids, skip_special_tokens=False)

    def table(self, *, skip_special_tokens: bool) -> dict[int, str | None]:
        """Return the texts that `learn` has returned so far, by token id."""
        return self._tables[skip_special_tokens]

    def learn(self, token_id: int, *, skip_special_tokens: bool) -> str | None:
        """Return a byte-level token's text in any sequence; None if it depends on its neighbours.

        A token of whole characters has the same text after any other whole character. A stream
        would decode it each time, together with its predecessors, twice.
        """
        table = self._tables[skip_special_tokens]
        if len(table) >= _MAX_TEXTS:
            table.clear()
        text = self.tokenizer.decode([token_id], skip_special_tokens=skip_special_tokens)
        table[token_id] = known = None if _REPLACEMENT in text else text
        return known


class Detokenizer:
    """Turns the tokens of one sequence into text, which depends on the end of its prompt."""

    __slots__ = ("_byte_level", "_skip_special_tokens", "_step", "_table", "_texts")

    def __init__(
        self, texts: TokenTexts, prompt: list[int], *, skip_special_tokens: bool = True
    ) -> None:
        self._texts = texts
        self._byte_level = texts.tokenizer.byte_level
        self._skip_special_tokens = skip_special_tokens
        self._table = texts.table(skip_special_tokens=skip_special_tokens)
        # The stream; None while tokens can be looked up because the last character is complete.
        self._step: DecodeStep | None = None
        if not self._byte_level or (prompt and not self._look_up(prompt[-1])):
            self._step = self._stream(_end_of(prompt, texts.tokenizer))

    def feed(self, token_ids: list[int]) -> str:
        """Take tokens; return their text as far as it is certain, which may be empty."""
        if len(token_ids) == 1:
            return self.feed_token(token_ids[0])
        return "".join([self.feed_token(token_id) for token_id in token_ids])

    def feed_all(self, token_ids: list[int]) -> str:
        """Take all tokens of the sequence; return the same text as `feed`, in less time."""
        if self._step is not None:
            return self.feed(token_ids)
        texts = list(map(self._table.get, token_ids))
        if None not in texts:
            return "".join(texts)  # type: ignore[arg-type]
        for token_id in token_ids:
            self._look_up(token_id)  # so that it is in the table the next time
        skip = self._skip_special_tokens
        text = self._texts.tokenizer.decode(token_ids, skip_special_tokens=skip)
        # Only a stream handles bytes that are not characters.
        return self.feed(token_ids) if _REPLACEMENT in text else text

    def feed_token(self, token_id: int) -> str:
        """Take one token; return its text as far as it is certain."""
        if self._step is None:
            text = self._table.get(token_id)
            if text is None:
                text = self._look_up(token_id)
            if text is not None:
                return text
            self._step = self._stream()
        try:
            text = self._step(token_id) or ""
        except Exception as error:
            if not self._texts.tokenizer.lost_track(error):
                raise
            self._step = self._stream()
            text = self._step(token_id) or ""
        if text and self._byte_level:
            self._step = None
        return text

    def _look_up(self, token_id: int) -> str | None:
        if token_id in self._table:
            return self._table[token_id]
        return self._texts.learn(token_id, skip_special_tokens=self._skip_special_tokens)

    def _stream(self, prompt: list[int] | None = None) -> DecodeStep:
        skip = self._skip_special_tokens
        return self._texts.tokenizer.decode_stream(prompt, skip_special_tokens=skip)


def _end_of(prompt: list[int], tokenizer: Tokenizer) -> list[int]:
    """Return the last tokens of a prompt, starting with a whole character.

    With a byte-fallback decoder, half a character at the start would void all bytes after it, the
    answer's included.
    """
    first = max(0, len(prompt) - _PRIME_TOKENS)
    for start in range(first, max(-1, first - _MAX_CUT_TOKENS - 1), -1):
        if not tokenizer.decode(prompt[start:]).startswith(_REPLACEMENT):
            return prompt[start:]
    return prompt[first:]
