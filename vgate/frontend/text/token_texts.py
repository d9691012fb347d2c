"""Single tokens as text and bytes, for log probabilities. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space


class TokenTexts:
    """Knows what each token of a vocabulary stands for.

    A token is bytes, and not always whole characters: then its text has replacement characters,
    and its bytes are exact.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        self._byte_level = '"ByteLevel"' in _decoder_of(tokenizer)
        # Log probabilities name the same few tokens again and again.
        self.bytes_of = lru_cache(maxsize=65_536)(self._bytes_of)
        self.text_of = lru_cache(maxsize=65_536)(self._text_of)

    def _text_of(self, token_id: int) -> str:
        """Return a token's text."""
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def _bytes_of(self, token_id: int) -> bytes:
        """Return a token's bytes; none for an id that no token has."""
        if (added := self._added.get(token_id)) is not None:
            return added.content.encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            try:
                return bytes(BYTE_OF[char] for char in token)
            except KeyError:
                return token.encode()
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE, " ").encode()


def _decoder_of(tokenizer: Tokenizer) -> str:
    """Return the tokenizer's decoder as JSON text."""
    decoder = tokenizer.decoder
    return "" if decoder is None else decoder.__getstate__().decode()


def _byte_alphabet() -> dict[str, int]:
    """Return the bytes by the characters that stand for them in byte-level vocabularies.

    As GPT-2 has it: printable Latin-1 characters stand for themselves, the other bytes, in order,
    for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return alphabet


# The bytes by their characters in byte-level vocabularies.
BYTE_OF = _byte_alphabet()
