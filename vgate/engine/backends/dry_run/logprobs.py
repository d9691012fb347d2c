"""Log probabilities of the dry-run engine: made up, and the same for the same tokens. Pure."""

from __future__ import annotations

import math

from vgate.wire.messages import Logprobs

_MIX_TOKEN, _MIX_PLACE, _MASK = 2654435761, 40503, 0xFFFF


def at(place: int, token: int, count: int, vocab_size: int) -> Logprobs:
    """Return what stands at one place of a sequence, as if the token there had been likely.

    Args:
        place: Number of tokens before it.
        token: The one that is there. It has half of the probability or more, and each of those
            that follow it in the vocabulary half of what is left.
        count: Most likely tokens that are asked for.
        vocab_size: Number of tokens that there are.
    """
    share = ((token * _MIX_TOKEN + place * _MIX_PLACE) & _MASK) / (_MASK + 1)
    first = 0.5 + 0.4 * share
    ids, logprobs = [token], [math.log(first)]
    for rank in range(count):
        ids.append((token + rank) % vocab_size)
        logprobs.append(math.log((1 - first) * 0.5**rank if rank else first))
    return Logprobs(ids, logprobs, 1)


def of_prompt(prompt: list[int], count: int, vocab_size: int) -> list[Logprobs | None]:
    """Return what stands at each place of a prompt; nothing precedes the first."""
    return [
        at(place, token, count, vocab_size) if place else None for place, token in enumerate(prompt)
    ]
