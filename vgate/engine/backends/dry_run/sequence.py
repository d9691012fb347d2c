"""A sequence of the dry-run engine: its output, token by token. Pure."""

import math
from collections.abc import Iterable

from vgate.engine.request import Request
from vgate.wire.kv_blocks import block_keys, block_seed
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import FinishReason
from vgate.wire.parameters import SamplingParams

# OpenAI on logit_bias: "values like -100 or 100 should result in a ban or exclusive selection".
# The dry-run engine ignores all values between.
_BAN, _FORCE = -100, 100
_NO_TOKEN = -1
# Constants of the hash that simulated log probabilities are made of.
_MIX_TOKEN, _MIX_POSITION, _MASK = 2654435761, 40503, 0xFFFF


class Rules:
    """The tokens that a request's parameters allow.

    `forced` is the token that is output wherever it is allowed; -1 if there is none.
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

    def forces(self, output: list[int], excluded: frozenset[int]) -> bool:
        """Whether the forced token must follow an output."""
        return (
            self.forced != _NO_TOKEN
            and self.forced not in excluded
            and self.allows(self.forced, output)
        )

    def allows(self, token: int, output: list[int]) -> bool:
        """Whether a token may follow an output."""
        if token in self._banned or (self._allowed is not None and token not in self._allowed):
            return False
        return not any(
            word[-1] == token and output[len(output) - len(word) + 1 :] == word[:-1]
            for word in self._bad_words
            if len(word) <= len(output) + 1
        )

    def allows_all(self, tokens: list[int]) -> bool:
        """Whether tokens may be output in this order, and would be."""
        return self.forced == _NO_TOKEN and all(
            self.allows(token, tokens[:index]) for index, token in enumerate(tokens)
        )

    def first_allowed(self, output: list[int], excluded: frozenset[int]) -> int | None:
        """Return the first token that may follow an output; None if there is none."""
        allowed = (token for token in self._candidates if self.allows(token, output))
        return next((token for token in allowed if token not in excluded), None)


class Sequence:
    """A running sequence: it outputs the tokens of `reply` repeatedly until one of `stops`.

    Attributes:
        ahead: Tokens that come next, the last of them first: chosen already, and to be taken from
            here one by one, before any call of `next`.
        prefilled: Tokens in the KV cache, up to the end of its prefill.
        computing: Whether its prefill has begun.
        held_blocks: How many of its blocks are in the prefix cache, and can't be evicted.
        cached_tokens: Prompt tokens found there.
        preemptions: How often it lost its KV cache.
    """

    def __init__(
        self, request: Request, reply: list[int], stops: frozenset[int], rules: Rules | None = None
    ) -> None:
        self.request = request
        self._min_tokens = (request.sampling and request.sampling.min_tokens) or 0
        self.seed = block_seed(request.options.adapter, request.options.cache_salt)
        self.prefilled = self.preemptions = 0
        self.computing = False
        self.held_blocks = self.cached_tokens = 0
        self._block_names: list[int] = []
        self._reply = reply
        self._stops = stops
        self._rules = rules
        # With those that are still in `ahead`.
        self._output: list[int] = []
        self.ahead: list[int] = []
        self._position = 0

    @property
    def emitted(self) -> int:
        """Tokens output so far."""
        return len(self._output) - len(self.ahead)

    @property
    def prefill_tokens(self) -> int:
        """Tokens to prefill: the prompt, and after a preemption the output too."""
        return len(self.request.prompt) + self.emitted

    @property
    def tokens(self) -> list[int]:
        """The prompt and the output, and perhaps some tokens more."""
        return self.request.prompt + self._output

    @property
    def reads_cache(self) -> bool:
        """Whether it may skip tokens that are cached: of a prompt whose tokens it reports, none."""
        return self.request.options.prompt_logprobs is None or bool(self.request.continued)

    def block_names(self, count: int, size: int) -> list[int]:
        """Return the names of its first blocks of `size` tokens, the same for the same tokens.

        The list has at least `count` of them; it is not to be changed.
        """
        names = self._block_names
        if (have := len(names)) < count:
            tokens = self._slice(have * size, count * size)
            names += block_keys(tokens, size, names[-1] if names else self.seed)
        return names

    def next(self) -> tuple[int, FinishReason | None]:
        """Return the next token; before `min_tokens` a stop token is skipped, as in vLLM."""
        assert not self.ahead
        output = self._output
        too_early = len(output) < self._min_tokens
        token = self._choose(self._stops if too_early else frozenset())
        output.append(token)
        if token in self._stops and not too_early:
            return token, "stop"
        return token, "length" if len(output) >= self.request.max_tokens else None

    def look_ahead(self, most: int) -> None:
        """Choose the next tokens, so many at most, as `next` would, if that takes no thought.

        They are `ahead` then; none of them is the last one.
        """
        count = min(most, self.request.max_tokens - len(self._output) - 1)
        if count <= 0 or self._rules is not None:
            return
        reply, start = self._reply, self._position % len(self._reply)
        tokens = reply[start : start + count]
        while len(tokens) < count:
            tokens += reply[: count - len(tokens)]
        if self._stops.isdisjoint(tokens):
            self._position += count
            self._output += tokens
            tokens.reverse()
            self.ahead = tokens

    def _choose(self, excluded: frozenset[int]) -> int:
        rules = self._rules
        if rules is not None and rules.forces(self._output, excluded):
            return rules.forced
        token = self._next_of_reply()
        for _ in self._reply:
            if token not in excluded and (rules is None or rules.allows(token, self._output)):
                return token
            token = self._next_of_reply()
        # Nothing of the reply is allowed here.
        other = None if rules is None else rules.first_allowed(self._output, excluded)
        return token if other is None else other

    def _slice(self, start: int, end: int) -> list[int]:
        """Return some of `tokens`."""
        prompt, output = self.request.prompt, self._output
        before = len(prompt)
        return prompt[start:end] + output[max(0, start - before) : max(0, end - before)]

    def _next_of_reply(self) -> int:
        token = self._reply[self._position % len(self._reply)]
        self._position += 1
        return token


def logprobs_at(position: int, token: int, count: int, vocab_size: int) -> Logprobs:
    """Return simulated log probabilities, the same for the same arguments.

    Args:
        position: Number of tokens before it.
        token: The sampled token. It gets at least half of the probability, and each of those that
            follow it in the vocabulary half of the rest.
        count: Number of most likely tokens to return.
        vocab_size: Token ids are below it.
    """
    share = ((token * _MIX_TOKEN + position * _MIX_POSITION) & _MASK) / (_MASK + 1)
    first = 0.5 + 0.4 * share
    ids, logprobs = [token], [math.log(first)]
    for rank in range(count):
        ids.append((token + rank) % vocab_size)
        logprobs.append(math.log((1 - first) * 0.5**rank if rank else first))
    return Logprobs.of(ids, logprobs, 1)
