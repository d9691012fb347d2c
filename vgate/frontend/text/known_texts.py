"""The texts of tokens that are whole characters, looked up instead of decoded. Pure.

Where tokens are bytes and nothing else, one that consists of whole characters says the same after
any other whole character. `DecodeStream` finds that out anew for each by decoding it together with
its predecessors, twice.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

REPLACEMENT = "\ufffd"
# Tokens remembered, about 150 bytes each. What a language uses is less; past it all begin anew,
# which costs a decoding for each.
_MAX_TEXTS = 16_384


class KnownTexts:
    """What single tokens of a vocabulary say, where that depends on nothing else.

    Attributes:
        tokenizer: The model's.
        byte_level: Whether tokens are bytes and nothing else.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # Another decoder may join tokens, or change their spaces.
        self.byte_level = isinstance(tokenizer.decoder, ByteLevel)
        self._tables: dict[bool, dict[int, str | None]] = {True: {}, False: {}}

    def table(self, *, skip_special_tokens: bool) -> dict[int, str | None]:
        """Return the texts that are known by now; `learn` adds to it."""
        return self._tables[skip_special_tokens]

    def learn(self, token_id: int, *, skip_special_tokens: bool) -> str | None:
        """Return a token's text; None if it depends on its neighbours."""
        text: str | None = None
        if self.byte_level:
            text = self.tokenizer.decode([token_id], skip_special_tokens=skip_special_tokens)
            if REPLACEMENT in text:
                text = None
        table = self._tables[skip_special_tokens]
        if len(table) >= _MAX_TEXTS:
            table.clear()
        table[token_id] = text
        return text
