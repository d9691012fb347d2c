"""Token ids to text, step by step. Pure.

The text equals what vLLM's own detokenizer gives for the same ids: both feed a `DecodeStream` that
knows the end of the prompt, and neither shows bytes that never became a character.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from vgate.frontend.text.known_texts import REPLACEMENT, KnownTexts

# Tokens of the prompt that the stream is primed with. Only what joins onto the answer matters: a
# piece's leading space, or the first bytes of a character.
_PRIME_TOKENS = 16
# A character has at most this many tokens before its last: UTF-8 has four bytes (RFC 3629).
_MAX_CUT_TOKENS = 3
# DecodeStream raises this when bytes that were text turn out to be none
# (https://github.com/vllm-project/vllm/issues/17448); vLLM starts a new stream then.
_INVALID_PREFIX = "Invalid prefix encountered"


class Detokenizer:
    """Turns the tokens of one sequence into text.

    Args:
        known: What is known of the model's vocabulary.
        prompt: The prompt's token ids.
        skip_special_tokens: Whether the text leaves special tokens out.
    """

    __slots__ = ("_known", "_skip_special_tokens", "_stream", "_table")

    def __init__(
        self, known: KnownTexts, prompt: list[int], *, skip_special_tokens: bool = True
    ) -> None:
        self._known = known
        self._skip_special_tokens = skip_special_tokens
        self._table = known.table(skip_special_tokens=skip_special_tokens)
        # None while a whole character was the last, so that tokens can be looked up.
        self._stream: DecodeStream | None = None
        if prompt and not (known.byte_level and self._look_up(prompt[-1])):
            primer = _end_of(prompt, known.tokenizer)
            self._stream = DecodeStream(ids=primer, skip_special_tokens=skip_special_tokens)

    def feed(self, token_ids: list[int]) -> str:
        """Take tokens; return their text as far as it is certain, which may be empty."""
        if len(token_ids) == 1:
            return self.text_of(token_ids[0])
        return "".join([self.text_of(token_id) for token_id in token_ids])

    def whole(self, token_ids: list[int]) -> str:
        """Take all tokens at once, as the only ones; return their text.

        The same as feeding them one by one, in less time.
        """
        if self._stream is not None or not self._known.byte_level:
            return self.feed(token_ids)
        texts = list(map(self._table.get, token_ids))
        if None not in texts:
            return "".join(texts)  # type: ignore[arg-type]
        for token_id in token_ids:
            self._look_up(token_id)  # so that it is known the next time
        skip = self._skip_special_tokens
        text: str = self._known.tokenizer.decode(token_ids, skip_special_tokens=skip)
        # Bytes that are no characters are the stream's to judge.
        return self.feed(token_ids) if REPLACEMENT in text else text

    def text_of(self, token_id: int) -> str:
        """Take one token; return its text as far as it is certain."""
        if self._stream is None:
            text = self._table.get(token_id)
            if text is None:
                text = self._look_up(token_id)
            if text is not None:
                return text
            self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
        text = self._step(self._stream, token_id)
        if text and self._known.byte_level:
            self._stream = None
        return text

    def _look_up(self, token_id: int) -> str | None:
        """Return a token's text; None if it depends on its neighbours."""
        if token_id in self._table:
            return self._table[token_id]
        return self._known.learn(token_id, skip_special_tokens=self._skip_special_tokens)

    def _step(self, stream: DecodeStream, token_id: int) -> str:
        tokenizer = self._known.tokenizer
        try:
            return stream.step(tokenizer, token_id) or ""
        except Exception as error:
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
            return self._stream.step(tokenizer, token_id) or ""


def _end_of(prompt: list[int], tokenizer: Tokenizer) -> list[int]:
    """Return the last tokens of a prompt, beginning with a whole character.

    Where bytes are tokens, a character that is cut in two makes a byte-fallback decoder give up
    all bytes that follow it, the answer's too.
    """
    first = max(0, len(prompt) - _PRIME_TOKENS)
    for start in range(first, max(-1, first - _MAX_CUT_TOKENS - 1), -1):
        if not tokenizer.decode(prompt[start:]).startswith(REPLACEMENT):
            return prompt[start:]
    return prompt[first:]
