"""Tokenising texts of which only so many tokens are kept."""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.errors import InvalidValueError
from vgate.frontend.text.model import TextModel


class Truncation(msgspec.Struct, frozen=True):
    """What is cut away.

    Attributes:
        keep: Most tokens that are left, special ones included.
        side: Where the others are taken from: "right" keeps the first tokens.
    """

    keep: int
    side: Literal["left", "right"]

    def cut(self, tokens: list[int]) -> list[int]:
        """Cut token ids."""
        return tokens[: self.keep] if self.side == "right" else tokens[-self.keep :]


def encode_texts(
    text: TextModel, texts: list[str], truncation: Truncation | None, *, special: bool
) -> list[list[int]]:
    """Tokenise texts; the special tokens around one are kept whatever is cut.

    Args:
        text: The model.
        texts: What to tokenise.
        truncation: What is cut; None for nothing.
        special: Put the special tokens around them that the model expects.

    Raises:
        InvalidValueError: The special tokens alone are too many.
    """
    tokenizer = text.tokenizer
    if truncation is None:
        return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
    around = tokenizer.num_special_tokens_to_add(is_pair=False) if special else 0
    if truncation.keep <= around:
        message = f"`truncate_prompt_tokens` must be more than the {around} special tokens, got "
        raise InvalidValueError(message + str(truncation.keep), param="truncate_prompt_tokens")
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for encoding in encodings:
        encoding.truncate(truncation.keep - around, direction=truncation.side)
    return [tokenizer.post_process(e, add_special_tokens=special).ids for e in encodings]
