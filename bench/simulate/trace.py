"""Requests as in a published trace: conversations of an assistant that reads long texts.

The figures are of the conversation trace of Mooncake (FAST 2025, `FAST25-release/traces` in the
repository kvcache-ai/Mooncake; 12,031 requests in an hour, tokens only by their number): deciles of
151 requests at its beginning and in its middle, whose mean is 10,860 prompt and 352 output tokens.
Of the 75 in the middle 36 % continued a conversation, 135 s on average after the turn before
(median 101 s), and 31 % of all prompt tokens had been in an earlier prompt. All begin with the same
512 tokens.
"""

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

SHARED_TOKENS = 512
_TOKEN_BYTES = 4

_FIRST_PROMPT = (894, 915, 1217, 2350, 4324, 6583, 8002, 11054, 16010, 26353, 87169)
_OUTPUT = (1, 26, 145, 255, 310, 357, 410, 458, 514, 587, 1284)
# What a turn adds to the conversation, in blocks of 512 tokens with the answer before it.
_ADDED = (50, 100, 150, 200, 300, 500, 600, 1000, 1800, 5500, 60000)
_CONTINUES = 0.36
_BETWEEN_TURNS_S = 135.0
# Longer conversations than the models take are cut.
_LONGEST = 100_000


class Turn(NamedTuple):
    """A request: its packed prompt, how many tokens are to be generated, and what comes next."""

    prompt: bytes
    output: int
    seed: int

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt) // _TOKEN_BYTES

    def answer(self) -> bytes:
        """Return the output's tokens, packed."""
        return _text(random.Random(-self.seed), self.output)


class Trace:
    """Draws the requests of conversations: the same ones whatever becomes of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._shared = _text(self._random, SHARED_TOKENS)

    def first(self) -> Turn:
        """Return the first turn of a conversation."""
        chance = self._random
        own = _text(chance, _draw(chance, _FIRST_PROMPT) - SHARED_TOKENS)
        return Turn(self._shared + own, _draw(chance, _OUTPUT), chance.getrandbits(62))

    def later(self) -> tuple[Turn, int]:
        """Return a turn of a conversation that began earlier, and its tokens that are not new."""
        turn = self.first()
        added = _text(self._random, _draw(self._random, _ADDED))
        return turn._replace(prompt=turn.prompt + added), turn.tokens

    def gap_s(self, rate: float) -> float:
        """Return the time to the next request that no other one brings, of so many in a second."""
        return self._random.expovariate(rate)

    def is_later(self, now: float) -> bool | None:
        """Whether such a request, now, is of a conversation that began before the simulation.

        None if there is no request: the simulation's own conversations bring it by then.
        """
        if self._random.random() >= _CONTINUES:
            return False
        return True if self._random.random() < math.exp(-now / _BETWEEN_TURNS_S) else None


def following(last: Turn) -> tuple[float, Turn] | None:
    """Return the next turn, and how long after the last one's end; None if that was the last."""
    chance = random.Random(last.seed)
    tokens = _draw(chance, _ADDED)
    if chance.random() >= _CONTINUES or last.tokens + last.output + tokens > _LONGEST:
        return None
    prompt = last.prompt + last.answer() + _text(chance, tokens)
    turn = Turn(prompt, _draw(chance, _OUTPUT), chance.getrandbits(62))
    return chance.expovariate(1 / _BETWEEN_TURNS_S), turn


def _text(chance: random.Random, tokens: int) -> bytes:
    """Return tokens that nobody else sends, packed."""
    return chance.randbytes(tokens * _TOKEN_BYTES)


def _draw(chance: random.Random, deciles: Sequence[int]) -> int:
    low, high = chance.choice(list(pairwise(deciles)))
    return round(low * math.pow(high / low, chance.random()))
