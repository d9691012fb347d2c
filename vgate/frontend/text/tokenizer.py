"""What the frontend needs of a tokenizer. `library_tokenizer` implements it.

`tests/frontend/text/test_tokenizer_contract.py` states this contract as code.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec


class TokenLimit(msgspec.Struct, frozen=True):
    """How long a tokenised text may be.

    Attributes:
        keep: Tokens to keep at most, special ones included.
        side: Where tokens are removed: "right" keeps the first ones.
    """

    keep: int
    side: Literal["left", "right"]

    def cut(self, tokens: list[int]) -> list[int]:
        """Return the tokens that are kept."""
        return tokens[: self.keep] if self.side == "right" else tokens[-self.keep :]


# Takes the next token of a sequence; returns the text that is certain with it, "" or None for none.
DecodeStep = Callable[[int], str | None]


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    All methods may be called from several threads at once. Encoding a long text releases the GIL.

    Attributes:
        byte_level: Tokens are just bytes, so the text of a token of whole characters does not
            depend on its neighbours.
        vocab_size: Number of tokens, added ones included. Ids may have gaps and exceed it.
    """

    byte_level: bool
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Tokenise a rendered conversation.

        Special tokens in the text become single tokens; none are added. Parts of the text may be
        cached, so that the start of a growing conversation is not tokenised again.
        """

    def encode_within(self, text: str, max_new_chars: int) -> list[int] | None:
        """Tokenise as `encode` does, unless it takes long.

        Returns:
            Token ids; None if more than `max_new_chars` characters are not cached. Then nothing was
            tokenised.
        """

    def encode_batch(
        self, texts: list[str], *, special: bool, truncation: TokenLimit | None = None
    ) -> list[list[int]]:
        """Tokenise texts; special tokens in them become single tokens.

        Args:
            texts: The texts.
            special: Whether to add the special tokens that the model expects around a text.
            truncation: Length limit of each result; the added special tokens are always kept.

        Raises:
            InvalidValueError: The added special tokens alone exceed the limit.
        """

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens. Bytes that are not characters become U+FFFD."""

    def decode_stream(
        self, prompt: list[int] | None = None, *, skip_special_tokens: bool = True
    ) -> DecodeStep:
        """Return a function that decodes a sequence token by token.

        If it raises an exception for which `lost_track` is true, start a new stream.

        Args:
            prompt: Tokens before the sequence; they affect its text but are not part of it.
            skip_special_tokens: Whether to leave special tokens out of the text.
        """

    def lost_track(self, error: Exception) -> bool:
        """Whether a stream failed because text that it had returned became invalid."""

    def bytes_of(self, token_id: int) -> bytes:
        """Return a token's bytes, maybe part of a character; b"" for an unknown id."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary spells it; None for an unknown id."""

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling in the vocabulary, if there is one."""
