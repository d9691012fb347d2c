"""A sequence of the dry-run engine: what it says, token by token. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vgate.engine.request import Request
from vgate.wire.messages import FinishReason
from vgate.wire.sampling import SamplingParams

# OpenAI's words for logit_bias: "values like -100 or 100 should result in a ban or exclusive
# selection". The dry-run engine is so sure of its answer that nothing less moves it.
_BAN, _FORCE = -100, 100
_NO_TOKEN = -1


class Rules:
    """Which tokens a request lets through.

    Args:
        sampling: Has the rules about single tokens.
        bad_words: Token sequences that never come.
        vocab_size: Number of tokens that there are.

    Attributes:
        forced: The token that comes whenever it may; -1 if there is none.
    """

    def __init__(
        self, sampling: SamplingParams, bad_words: list[list[int]], vocab_size: int
    ) -> None:
        bias = sampling.logit_bias or {}
        self._banned = frozenset(token for token, value in bias.items() if value <= _BAN)
        self.forced = min((t for t, value in bias.items() if value >= _FORCE), default=_NO_TOKEN)
        allowed = sampling.allowed_token_ids
        self._candidates: Iterable[int] = sorted(allowed) if allowed else range(vocab_size)
        self._allowed = frozenset(allowed) if allowed else None
        self._bad_words = bad_words

    def forces(self, said: list[int], not_these: frozenset[int]) -> bool:
        """Say whether the forced token has to follow what was said."""
        return (
            self.forced != _NO_TOKEN
            and self.forced not in not_these
            and self.permit(self.forced, said)
        )

    def permit(self, token: int, said: list[int]) -> bool:
        """Say whether a token may follow what was said."""
        if token in self._banned or (self._allowed is not None and token not in self._allowed):
            return False
        return not any(
            word[-1] == token and said[len(said) - len(word) + 1 :] == word[:-1]
            for word in self._bad_words
            if len(word) <= len(said) + 1
        )

    def permit_all(self, tokens: list[int]) -> bool:
        """Say whether tokens may be said one after the other, and would be."""
        return self.forced == _NO_TOKEN and all(
            self.permit(token, tokens[:place]) for place, token in enumerate(tokens)
        )

    def other(self, said: list[int], not_these: frozenset[int]) -> int | None:
        """Return the first token that may follow what was said; None if there is none."""
        for token in self._candidates:
            if token not in not_these and self.permit(token, said):
                return token
        return None


class Sequence:
    """A running sequence: what it will say, and how far it is.

    Args:
        request: The request.
        reply: The tokens to say, over and over.
        stops: Tokens that end it.
        rules: Which tokens may come; None for all.
    """

    __slots__ = (
        "_position",
        "_reply",
        "_rules",
        "_said",
        "_stops",
        "emitted",
        "min_tokens",
        "prefilled",
        "request",
    )

    def __init__(
        self, request: Request, reply: list[int], stops: frozenset[int], rules: Rules | None = None
    ) -> None:
        self.request = request
        self.min_tokens = (request.sampling and request.sampling.min_tokens) or 0
        self.prefilled = 0
        self.emitted = 0
        self._reply = reply
        self._stops = stops
        self._rules = rules
        self._said: list[int] = []
        self._position = 0

    @property
    def prefill_tokens(self) -> int:
        """Tokens to prefill: the prompt, and after a preemption what was generated too."""
        return len(self.request.prompt) + self.emitted

    @property
    def kv_tokens(self) -> int:
        """Tokens in the KV cache."""
        return max(self.prefilled, len(self.request.prompt) + self.emitted)

    def skip(self, count: int) -> None:
        """Go on after the first tokens, which were said elsewhere."""
        for _ in range(count):
            self.next()

    def next(self) -> tuple[int, FinishReason | None]:
        """Emit the next token; below `min_tokens` a stop token is passed over, as in vLLM."""
        too_early = self.emitted < self.min_tokens
        token = self._choose(self._stops if too_early else frozenset())
        self.emitted += 1
        if self._rules is not None:
            self._said.append(token)
        if token in self._stops and not too_early:
            return token, "stop"
        return token, "length" if self.emitted >= self.request.max_tokens else None

    def _choose(self, not_these: frozenset[int]) -> int:
        rules = self._rules
        if rules is not None and rules.forces(self._said, not_these):
            return rules.forced
        token = self._next_of_reply()
        for _ in self._reply:
            if token not in not_these and (rules is None or rules.permit(token, self._said)):
                return token
            token = self._next_of_reply()
        # Nothing of the reply may be said now.
        other = None if rules is None else rules.other(self._said, not_these)
        return token if other is None else other

    def _next_of_reply(self) -> int:
        token = self._reply[self._position % len(self._reply)]
        self._position += 1
        return token
