"""Token ids to text, step by step. Pure.

The text equals what vLLM's own detokenizer gives for the same ids: both feed a `DecodeStream` that
knows the end of the prompt, and neither shows bytes that never became a character.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel, DecodeStream

# Tokens of the prompt that the stream is primed with. Only what joins onto the answer matters: a
# piece's leading space, or the first bytes of a character.
_PRIME_TOKENS = 16
# A character has at most this many tokens before its last: UTF-8 has four bytes (RFC 3629).
_MAX_CUT_TOKENS = 3
_REPLACEMENT = "\ufffd"
# DecodeStream raises this when bytes that were text turn out to be none
# (https://github.com/vllm-project/vllm/issues/17448); vLLM starts a new stream then.
_INVALID_PREFIX = "Invalid prefix encountered"


class Detokenizer:
    """Turns the tokens of one sequence into text.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt's token ids.
        skip_special_tokens: Whether the text leaves special tokens out.
    """

    __slots__ = ("_byte_level", "_primer", "_skip_special_tokens", "_stream", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer, prompt: list[int], *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        # Where tokens are bytes and nothing else, the text of several is that of each together.
        self._byte_level = isinstance(tokenizer.decoder, ByteLevel)
        self._primer = _end_of(prompt, tokenizer)
        self._stream = DecodeStream(ids=self._primer, skip_special_tokens=skip_special_tokens)

    def feed(self, token_ids: list[int]) -> str:
        """Take tokens; return their text as far as it is certain, which may be empty."""
        if len(token_ids) == 1:
            return self.text_of(token_ids[0])
        return "".join([self.text_of(token_id) for token_id in token_ids])

    def whole(self, token_ids: list[int]) -> str:
        """Take all tokens at once, as the only ones; return their text.

        The same as feeding them one by one, in a quarter of the time.
        """
        if self._byte_level:
            skip = self._skip_special_tokens
            before = self._tokenizer.decode(self._primer, skip_special_tokens=skip)
            text = self._tokenizer.decode(self._primer + token_ids, skip_special_tokens=skip)
            # Bytes that are no characters, or that the prompt began, are the stream's to judge.
            if _REPLACEMENT not in text and _REPLACEMENT not in before:
                return text[len(before) :]
        return self.feed(token_ids)

    def text_of(self, token_id: int) -> str:
        """Take one token; return its text as far as it is certain."""
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
            return self._stream.step(self._tokenizer, token_id) or ""


def _end_of(prompt: list[int], tokenizer: Tokenizer) -> list[int]:
    """Return the last tokens of a prompt, beginning with a whole character.

    Where bytes are tokens, a character that is cut in two makes a byte-fallback decoder give up
    all bytes that follow it, the answer's too.
    """
    first = max(0, len(prompt) - _PRIME_TOKENS)
    for start in range(first, max(-1, first - _MAX_CUT_TOKENS - 1), -1):
        if not tokenizer.decode(prompt[start:]).startswith(_REPLACEMENT):
            return prompt[start:]
    return prompt[first:]
