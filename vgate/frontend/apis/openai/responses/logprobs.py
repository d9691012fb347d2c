"""Log probabilities of a text's tokens, in the Responses API."""

from __future__ import annotations

from vgate.frontend.apis.openai.logprobs import LogprobTexts, TokenLogprob
from vgate.wire.messages import Logprobs


class TextLogprobs:
    """Finds the log probabilities of a text's tokens among those of a whole answer.

    The tokens of the reasoning come first, those of tool calls last, and what is left is the text.

    Args:
        texts: Writes log probabilities.
        top: How many at each place.
    """

    def __init__(self, texts: LogprobTexts, top: int) -> None:
        self._texts = texts
        self._top = top
        self._places: list[Logprobs] = []
        self._next = 0
        self._missing_bytes = 0

    def feed(self, places: list[Logprobs]) -> None:
        """Take those of more tokens."""
        self._places += places

    def take(self, text: str, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of the tokens that more text is made of."""
        self._next = max(self._next, reasoning_tokens)
        self._missing_bytes += len(text.encode())
        taken: list[TokenLogprob] = []
        while self._missing_bytes > 0 and self._next < len(self._places):
            token = self._written(self._places[self._next : self._next + 1])
            self._next += 1
            self._missing_bytes -= len(token[0].bytes)
            taken += token
        return taken

    def rest(self, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of all tokens after that: without tool calls they belong to the text."""
        return self._written(self._places[max(self._next, reasoning_tokens) :])

    def _written(self, places: list[Logprobs]) -> list[TokenLogprob]:
        return self._texts.chat(places, self._top).content
