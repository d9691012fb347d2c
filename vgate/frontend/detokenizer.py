"""Token ids to text, step by step, with stop strings. Pure.

The text equals what vLLM's own detokenizer gives for the same ids: both feed a `DecodeStream` that
knows the end of the prompt, and neither shows bytes that never became a character.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

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
        stops: Strings that end the answer; the text before the first match is all that is given.
        min_tokens: Stop strings are looked for after so many tokens.

    Attributes:
        tokens: Tokens taken so far; with a matched stop string those up to the one completing it.
        stopped: Whether a stop string was found.
    """

    __slots__ = (
        "_held",
        "_min_tokens",
        "_stops",
        "_stream",
        "_tokenizer",
        "stopped",
        "tokens",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: list[int],
        stops: tuple[str, ...] = (),
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        primer = _end_of(prompt, tokenizer)
        self._stream = DecodeStream(ids=primer, skip_special_tokens=True)
        self._stops = stops
        self._min_tokens = min_tokens
        self._held = ""
        self.tokens = 0
        self.stopped = False

    @property
    def watching(self) -> bool:
        """Whether there are stop strings to look for at every token."""
        return bool(self._stops)

    def feed(self, token_ids: list[int]) -> str:
        """Take tokens; return the text that is certain now, which may be empty."""
        if self._stops:
            return self._feed_watching(token_ids)
        self.tokens += len(token_ids)
        return "".join([self._text_of(token_id) for token_id in token_ids])

    def skip(self) -> None:
        """Take a token that is part of the answer's count but not of its text: a stop token."""
        self.tokens += 1

    def finish(self) -> str:
        """Return what was held back in case it became a stop string."""
        held, self._held = self._held, ""
        return held

    def _text_of(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token_id) or ""

    def _feed_watching(self, token_ids: list[int]) -> str:
        certain = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.tokens += 1
            piece = self._text_of(token_id)
            if not piece:
                continue
            text = self._held + piece
            end = self._first_stop(text) if self.tokens > self._min_tokens else None
            if end is not None:
                self.stopped = True
                self._held = ""
                certain.append(text[:end])
            else:
                held = self._held_chars(text)
                self._held = text[len(text) - held :]
                certain.append(text[: len(text) - held])
        return "".join(certain)

    def _first_stop(self, text: str) -> int | None:
        """Return where the stop string that completes first begins; ties go to list order."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            begin = text.find(stop)
            if begin >= 0 and (best is None or begin + len(stop) < best[0]):
                best = (begin + len(stop), begin)
        return None if best is None else best[1]

    def _held_chars(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


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
