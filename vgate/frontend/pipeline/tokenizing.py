"""Tokenising without keeping other streams waiting.

The tokenizer releases the GIL: what takes long runs on a thread. 30,000 tokens take tens of
milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from vgate.frontend.pipeline.port import Tokens
from vgate.frontend.text import TextModel

_INLINE_CHARS = 16_384
# Decoding a token costs as much as encoding about so many characters.
CHARS_PER_TOKEN = 4

_Text = TypeVar("_Text")
_Result = TypeVar("_Result")


async def tokenize(
    loop: asyncio.AbstractEventLoop, encode: Callable[[_Text], _Result], text: _Text, chars: int
) -> _Result:
    """Return `encode(text)`, on a thread if the text is long."""
    if chars <= _INLINE_CHARS:
        return encode(text)
    return await loop.run_in_executor(None, encode, text)


async def tokenize_rendered(
    loop: asyncio.AbstractEventLoop, text: TextModel, rendered: str
) -> list[int]:
    """Return the token ids of rendered text, on a thread where much of it is new."""
    ids = text.tokenizer.encode_within(rendered, _INLINE_CHARS)
    if ids is None:
        ids = await loop.run_in_executor(None, text.tokenizer.encode, rendered)
    return ids


def tokens_of(text: TextModel, prompt: str, *, add_special_tokens: bool, spell: bool) -> Tokens:
    """Return the tokens of a text, and how the vocabulary spells them if `spell` is set."""
    (ids,) = text.tokenizer.encode_batch([prompt], special=add_special_tokens)
    spellings = [text.tokenizer.id_to_token(token) for token in ids] if spell else None
    return Tokens(ids, spellings, text.info.max_model_len)
