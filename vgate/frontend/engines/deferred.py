"""Output that takes long to write: about a millisecond of it in each turn of the event loop.

A token with twenty log probabilities costs as much as a hundred others. Whoever asks for them waits
for each other, and nobody else waits for them.
"""

import asyncio
from collections import deque
from time import perf_counter

import msgspec

from vgate.frontend.engines.sequence import Sequence
from vgate.wire.messages import Delta

_TURN_S = 0.001
# Of one sequence at once: with twenty log probabilities each takes some 40 microseconds.
_MOST_TOKENS = 16


class Deferred:
    """The sequences with such output, in the order of their turns.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Sequence, deque[Delta]] = {}
        # To free: thousands of objects take milliseconds, and many streams may be dropped at once.
        self._dropped: list[deque[Delta]] = []
        self._scheduled = False

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._waiting

    def add(self, sequence: Sequence, delta: Delta) -> None:
        """Keep a delta until it is its sequence's turn."""
        self._schedule()
        self._waiting.setdefault(sequence, deque()).extend(_parts(delta))

    def drop(self, sequence: Sequence) -> None:
        """Forget what a sequence has here."""
        if (deltas := self._waiting.pop(sequence, None)) and len(deltas) > _MOST_TOKENS:
            self._schedule()
            self._dropped.append(deltas)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        ends = perf_counter() + _TURN_S
        while self._dropped and perf_counter() < ends:
            deltas = self._dropped[-1]
            for _ in range(min(_MOST_TOKENS, len(deltas))):
                deltas.popleft()
            if not deltas:
                self._dropped.pop()
        ends = perf_counter() + _TURN_S
        while self._waiting and perf_counter() < ends:
            sequence = next(iter(self._waiting))
            deltas, tokens = self._waiting.pop(sequence), 0
            while deltas and tokens < _MOST_TOKENS:
                sequence.take(delta := deltas.popleft())
                tokens += len(delta.token_ids)
            if deltas:
                self._waiting[sequence] = deltas
            sequence.answer.flush()
        if self._waiting or self._dropped:
            self._schedule()


def _parts(delta: Delta) -> list[Delta]:
    """Return a delta in parts; one that joins another's sequence has all of its tokens so far."""
    tokens, logprobs = delta.token_ids, delta.logprobs
    if len(tokens) <= _MOST_TOKENS or logprobs is None:
        return [delta]
    parts = [
        Delta(
            delta.id,
            tokens[begin : begin + _MOST_TOKENS],
            cached_tokens=delta.cached_tokens,
            coalesced=delta.coalesced,
            logprobs=logprobs[begin : begin + _MOST_TOKENS],
            timing=delta.timing,
        )
        for begin in range(0, len(tokens), _MOST_TOKENS)
    ]
    first = msgspec.structs.replace(parts[0], prompt_logprobs=delta.prompt_logprobs)
    last = msgspec.structs.replace(parts[-1], finish_reason=delta.finish_reason)
    return [first, *parts[1:-1], last]
