"""Output that takes long to read or to write: a part of it in each turn of the event loop.

A token with twenty log probabilities costs as much as a hundred others. Answers with them wait for
each other, and no other answer waits for them. An answer that comes whole, and whose thousands of
tokens must be read one by one (as where its reasoning ends), takes as long as a step of a hundred
streams. Such answers wait for each other, too, and share the loop with the rest when it is busy.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import chain
from time import perf_counter

import msgspec

from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.interpreter import interpreter
from vgate.wire.messages import Delta

_TURN_S = 0.001
# For answers that came whole, if the rest of the loop takes twice as long: they would pile up.
_LONGEST_TURN_S = 0.004
# Of one sequence at once: with twenty log probabilities each takes some 40 microseconds.
_MOST_TOKENS = 16
# Without log probabilities each takes some 5 microseconds.
_MOST_PLAIN_TOKENS = 64


class Deferred:
    """The sequences with such output, in the order of their turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Sequence, deque[Delta]] = {}
        # Those that came whole, without log probabilities.
        self._whole: dict[Sequence, deque[Delta]] = {}
        # To free: thousands of objects take milliseconds, and many streams may be dropped at once.
        self._dropped: list[deque[Delta]] = []
        self._scheduled = False
        # When the last turn ended; 0 if nothing was left then.
        self._left_at = 0.0

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._waiting or sequence in self._whole

    def __iter__(self) -> Iterator[Sequence]:
        return chain(self._waiting, self._whole)

    def takes(self, sequence: Sequence, delta: Delta) -> bool:
        """Whether a delta is to be added here: it takes long, or comes after one that does."""
        if delta.logprobs is not None:
            return True
        if (self._waiting or self._whole) and sequence in self:
            return True
        # Tokens that follow come past this place, so only the last ones can wait.
        ends = delta.finish_reason is not None
        return ends and sequence.by_token and len(delta.token_ids) > _MOST_TOKENS

    def add(self, sequence: Sequence, delta: Delta) -> None:
        """Keep a delta until it is its sequence's turn."""
        self._schedule()
        whole = delta.logprobs is None and sequence not in self._waiting
        waiting = self._whole if whole else self._waiting
        waiting.setdefault(sequence, deque()).extend(_parts(delta))

    def drop(self, sequence: Sequence) -> None:
        """Forget what a sequence has here."""
        self._whole.pop(sequence, None)
        if (deltas := self._waiting.pop(sequence, None)) and len(deltas) > _MOST_TOKENS:
            self._schedule()
            self._dropped.append(deltas)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
            # The next turns follow each other.
            interpreter.share()

    def _run(self) -> None:
        self._scheduled = False
        try:
            self._give_all_turns()
        finally:
            # Whatever went wrong with one answer, the others get their turns.
            self._left_at = 0.0
            if self._waiting or self._whole or self._dropped:
                self._left_at = perf_counter()
                self._schedule()
            interpreter.keep()

    def _give_all_turns(self) -> None:
        others_s = perf_counter() - self._left_at if self._left_at else 0.0
        ends = perf_counter() + _TURN_S
        while self._dropped and perf_counter() < ends:
            deltas = self._dropped[-1]
            for _ in range(min(_MOST_TOKENS, len(deltas))):
                deltas.popleft()
            if not deltas:
                self._dropped.pop()
        _give_turns(self._waiting, _TURN_S)
        _give_turns(self._whole, min(max(_TURN_S, others_s / 2), _LONGEST_TURN_S))


def _give_turns(waiting: dict[Sequence, deque[Delta]], turn_s: float) -> None:
    ends = perf_counter() + turn_s
    while waiting and perf_counter() < ends:
        sequence = next(iter(waiting))
        deltas, tokens = waiting.pop(sequence), 0
        while deltas and tokens < _MOST_TOKENS:
            sequence.take(delta := deltas.popleft())
            tokens += len(delta.token_ids)
        if deltas:
            waiting[sequence] = deltas
        sequence.answer.flush()


def _parts(delta: Delta) -> list[Delta]:
    """Return a delta in parts: one that joins another's sequence, or that ends one, is long."""
    tokens, logprobs = delta.token_ids, delta.logprobs
    size = _MOST_TOKENS if logprobs is not None else _MOST_PLAIN_TOKENS
    if len(tokens) <= size:
        return [delta]
    parts = [
        Delta(
            delta.id,
            tokens[begin : begin + size],
            cached_tokens=delta.cached_tokens,
            coalesced=delta.coalesced,
            logprobs=None if logprobs is None else logprobs[begin : begin + size],
            timing=delta.timing,
        )
        for begin in range(0, len(tokens), size)
    ]
    first = msgspec.structs.replace(parts[0], prompt_logprobs=delta.prompt_logprobs)
    last = msgspec.structs.replace(parts[-1], finish_reason=delta.finish_reason)
    return [first, *parts[1:-1], last]
