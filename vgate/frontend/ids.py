"""Ids of requests, answers and tool calls."""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b

# Ids must be unique, not unguessable, so the kernel is asked for random bytes only once.
_PROCESS = os.urandom(8).hex()
_numbers = itertools.count(1)


class Ids:
    """Makes the same ids for the same seed, whatever process it is in.

    Each part of an answer has its own, so they don't depend on which part comes first.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._made: defaultdict[int, int] = defaultdict(int)

    def make(self, part: int, prefix: str) -> str:
        """Return the next id of a part."""
        self._made[part] += 1
        place = b"%d %d" % (part, self._made[part])
        return prefix + blake2b(place, key=self._seed, digest_size=12).hexdigest()

    @contextmanager
    def of(self, part: int) -> Iterator[None]:
        """Let `new_id` return a part's ids."""
        token = _made_again.set((self, part))
        try:
            yield
        finally:
            _made_again.reset(token)


_made_again: ContextVar[tuple[Ids, int] | None] = ContextVar("made_again", default=None)


def new_id(prefix: str) -> str:
    """Return an id that no other process or call returns."""
    if (made_again := _made_again.get()) is not None:
        ids, part = made_again
        return ids.make(part, prefix)
    return f"{prefix}{_PROCESS}{next(_numbers):08x}"


def tool_call_id() -> str:
    """Return a new id for a tool call."""
    return new_id("call_")
