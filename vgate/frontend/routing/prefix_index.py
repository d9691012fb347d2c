"""Which replica has which prefix of a prompt in its KV cache."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

# Of prompts that go on differently after the same block. A conversation does that once at each
# place, and twice where a turn is asked again.
_FORKS = 3
_MOST_FORKS = 65_536
# About 110 bytes each. Blocks of 64 tokens: as many as 64 replicas with a million tokens each.
_MOST_KEYS = 1 << 20
# Bits of lost replicas whose keys are dropped together.
_MOST_DEAD = 16


class Found(NamedTuple):
    """The leading blocks of a prompt that replicas have.

    Attributes:
        falls: Replicas' bits, and how many blocks these have; each replica is in one of them or
            has none. The last ones have the most.
        shared: How many blocks the prompt shares with others that are not its conversation.
        uses: How many these are.
    """

    falls: list[tuple[int, int]]
    shared: int
    uses: int

    @property
    def most(self) -> int:
        """The most blocks that any replica has."""
        return self.falls[-1][1] if self.falls else 0

    def blocks_of(self, bit: int) -> int:
        """Return how many blocks a replica has."""
        for bits, blocks in self.falls:
            if bits & bit:
                return blocks
        return 0


class PrefixIndex:
    """The block keys that replicas have, by what they report, and what they were sent.

    Each key has the bits of the replicas that have it, so a prompt is looked up once for all of
    them. What a replica was sent counts until its report has come.
    """

    def __init__(self, most_keys: int = _MOST_KEYS) -> None:
        self._most_keys = most_keys
        self._stored: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._forks: dict[int, int] = {}
        self._live = self._dead = 0

    def __len__(self) -> int:
        return len(self._stored)

    def join(self) -> int:
        """Return the bit of a replica that has nothing."""
        used, bit = self._live | self._dead, 1
        while used & bit:
            bit <<= 1
        self._live |= bit
        return bit

    def leave(self, bit: int) -> None:
        """Forget what a replica has, and its bit."""
        self._live &= ~bit
        self._dead |= bit
        if self._dead.bit_count() >= _MOST_DEAD or not self._live:
            live, self._dead = self._live, 0
            for table in (self._stored, self._sent):
                left = {key: bits & live for key, bits in table.items() if bits & live}
                table.clear()
                table.update(left)

    def store(self, bit: int, keys: Iterable[int]) -> None:
        """Add blocks that a replica has."""
        stored = self._stored
        for key in keys:
            stored[key] = stored.get(key, 0) | bit
        _limit(stored, self._most_keys)

    def remove(self, bit: int, keys: Iterable[int]) -> None:
        """Remove blocks that a replica has lost."""
        _unset(self._stored, bit, keys)

    def send(self, bit: int, keys: Iterable[int]) -> None:
        """Add blocks that a replica will have, for it was sent a prompt with them."""
        sent = self._sent
        for key in keys:
            sent[key] = sent.get(key, 0) | bit

    def settle(self, bit: int, keys: Iterable[int]) -> None:
        """Remove what was sent: the replica has it and says so, or will not have it."""
        _unset(self._sent, bit, keys)

    def find(self, keys: list[int]) -> Found:
        """Return who has how much of a prompt, and note where it leaves all known ones."""
        stored, sent, forks = self._stored, self._sent, self._forks
        left, shared, uses = self._live, 0, 1
        falls: list[tuple[int, int]] = []
        if not left:
            return Found(falls, shared, uses)
        for blocks, key in enumerate(keys):
            have = stored.get(key, 0)
            if have & left != left:
                have = (have | sent.get(key, 0)) & left
                if blocks and have != left:
                    falls.append((left & ~have, blocks))
                left = have
                if not have:
                    break
            if key in forks and forks[key] >= _FORKS:
                shared, uses = blocks + 1, forks[key]
        if left and keys:
            falls.append((left, len(keys)))
        elif falls:
            last = falls[-1][1]
            if (count := self._fork(keys[last - 1])) >= _FORKS:
                shared, uses = last, count
        return Found(falls, shared, uses)

    def _fork(self, key: int) -> int:
        """Count a prompt that is the first to go on like this after a block."""
        forks = self._forks
        # Those that were not seen for the longest time come first.
        count = forks[key] = forks.pop(key, 0) + 1
        _limit(forks, _MOST_FORKS)
        return count


def _limit(table: dict[int, int], most: int) -> None:
    """Drop the oldest entries if there are too many.

    Many at once: to find the first entry of a dictionary takes as long as many were deleted there.
    """
    if (excess := len(table) - most) > 0:
        for key in list(islice(table, excess + most // 16)):
            del table[key]


def _unset(table: dict[int, int], bit: int, keys: Iterable[int]) -> None:
    for key in keys:
        if bits := table.get(key, 0):
            if bits := bits & ~bit:
                table[key] = bits
            else:
                del table[key]
