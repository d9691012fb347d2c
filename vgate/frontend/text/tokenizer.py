"""What the frontend needs of a tokenizer. `library_tokenizer` implements it.

`tests/frontend/text/test_tokenizer_contract.py` states this contract as code.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from vgate.frontend.text.pairs import PairTemplate


class TooManyTokensError(Exception):
    """A text has more tokens than its limit.

    Attributes:
        tokens: It has at least so many.
        index: Which of several texts it is.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens
        self.index: int | None = None


class TooMuchAtOnceError(Exception):
    """A text has more characters that are not cached than may be tokenised at once.

    Attributes:
        less_is_left: Some of them have been tokenised and cached, so another call has less to do.
    """

    def __init__(self, *, less_is_left: bool = False) -> None:
        super().__init__()
        self.less_is_left = less_is_left


class TokenLimit(msgspec.Struct, frozen=True):
    """How many tokens of a text are of use. A tokenizer may stop at any number above it.

    Attributes:
        keep: Tokens to keep at most, special ones included.
        side: Where tokens are removed: "right" keeps the first ones.
        refuses: Whether a longer text is refused, and not cut.
    """

    keep: int
    side: Literal["left", "right"] = "right"
    refuses: bool = False

    def stop(self, tokens: int) -> None:
        """Raise `TooManyTokensError` if a text of at least so many tokens is refused."""
        if self.refuses:
            raise TooManyTokensError(tokens)

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
        pair: The special tokens that it adds to a pair of texts.
    """

    byte_level: bool
    vocab_size: int

    @property
    def pair(self) -> PairTemplate: ...  # noqa: D102 - see above

    def first_tokens(self, text: str, tokens: int) -> str:
        """Return the start of a text that has at most so many tokens."""

    def least_tokens(self, text: str) -> int:
        """Return a number of tokens that a text surely has, without tokenising it."""

    def encode(self, text: str, limit: TokenLimit | None = None, scope: str = "") -> list[int]:
        """Tokenise a rendered conversation.

        Special tokens in the text become single tokens, but in what `shielded` has returned; none
        are added. Tokens that the limit doesn't keep may be left out. Parts of the text may be
        cached, so that the start of a growing conversation is not tokenised again. Only texts of
        the same scope share them, so that no time tells what others sent.

        Raises:
            TooManyTokensError: The limit refuses the text.
            InvalidValueError: The text is too long to be tokenised.
        """

    def shielded(self, text: str) -> str:
        """Return a text that has no special tokens as a part of a rendered conversation.

        There, and where such a conversation is the only text of `encode_batch`, what spells special
        tokens becomes the tokens of any other text. Tokenizers that can't tell them apart return
        the text as it is.
        """

    def encode_within(
        self, text: str, max_new_chars: int, limit: TokenLimit | None = None, scope: str = ""
    ) -> list[int]:
        """Tokenise as `encode` does, unless it takes long.

        Raises:
            TooMuchAtOnceError: More than `max_new_chars` characters are not cached.
        """

    def encode_batch(
        self, texts: list[str], *, special: bool, limit: TokenLimit | None = None
    ) -> list[list[int]]:
        """Tokenise texts; special tokens in them become single tokens.

        With `special`, those are added that the model expects around a text. The limit is that of
        each text; the added tokens are always kept. If it refuses, texts that are a little too long
        may be returned whole.

        Raises:
            TooManyTokensError: The limit refuses a text.
            InvalidValueError: The added special tokens alone exceed the limit, or a text is too
                long to be tokenised.
        """

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens. Bytes that are not characters become U+FFFD."""

    def decode_many(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return what `decode` does; for many tokens, as other threads can run meanwhile."""

    def decode_stream(
        self, prompt: list[int] | None = None, *, skip_special_tokens: bool = True
    ) -> DecodeStep:
        """Return a function that decodes a sequence token by token.

        If it raises an exception for which `lost_track` is true, start a new stream. The tokens of
        `prompt` come before the sequence; they affect its text but are not part of it.
        """

    def lost_track(self, error: Exception) -> bool:
        """Whether a stream failed because text that it had returned became invalid."""

    def bytes_of(self, token_id: int) -> bytes:
        """Return a token's bytes, maybe part of a character; b"" for an unknown id."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary spells it; None for an unknown id."""

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling in the vocabulary, if there is one."""
