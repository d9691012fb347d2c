"""A sliding log of amounts in shared memory: what was taken in the last window, to the nanosecond.

A worker can be killed between any two stores. So each method changes what counts (the ring's ends
and its entries) by single stores of one word, in an order in which every state in between is right,
or counts too much for at most a window. Only ``total``, a cached sum, needs `recount` afterwards.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain

# Words of a log's header.
_REGION = 0  # offset << 32 | capacity of the ring: one word, so that growing is one store
_HEAD = 1  # entries ever written
_TAIL = 2  # entries ever dropped
_TOTAL = 3  # sum of the amounts from tail to head
HEADER_WORDS = 8

_CAPACITY_MASK = (1 << 32) - 1

# The sum of the amounts in a window, and the stamp of the oldest entry, if there is one.
WindowState = tuple[int, int | None]


class SlidingLog:
    """Entries ``(stamp, amount)``, ordered by stamp, in a ring of 64-bit words.

    The request log has amounts of 1, the token log has tokens. Every method needs the file's lock.

    Args:
        words: The shared memory, as signed 64-bit words. A larger view may replace it.
        base: Index of the log's header.
    """

    __slots__ = ("_base", "words")

    def __init__(self, words: "memoryview[int]", base: int) -> None:
        self.words = words
        self._base = base

    @property
    def capacity(self) -> int:
        """Entries that fit; 0 before the first `move`."""
        return self.words[self._base + _REGION] & _CAPACITY_MASK

    @property
    def is_full(self) -> bool:
        """Whether the next entry needs a larger ring, or will be merged into the last one."""
        words, base = self.words, self._base
        return words[base + _HEAD] - words[base + _TAIL] == words[base + _REGION] & _CAPACITY_MASK

    @property
    def total(self) -> int:
        """Sum of all amounts, as of the last call of `window`."""
        return self.words[self._base + _TOTAL]

    def window(self, until_ns: int) -> WindowState:
        """Drop the entries stamped `until_ns` or earlier, and return the state of the rest."""
        words, base = self.words, self._base
        tail = words[base + _TAIL]
        if tail == words[base + _HEAD]:
            return words[base + _TOTAL], None
        # `words[self._stamp_at(tail)]` inlined, because every decision needs it.
        region = words[base + _REGION]
        oldest_ns = words[(region >> 32) + tail % (region & _CAPACITY_MASK)]
        if oldest_ns <= until_ns:
            kept = self._first_after(until_ns)
            words[base + _TOTAL] -= sum(self._column(1, tail, kept))
            words[base + _TAIL] = tail = kept
            oldest_ns = words[self._stamp_at(tail)]
        return words[base + _TOTAL], None if tail == words[base + _HEAD] else oldest_ns

    def add(self, now_ns: int, amount: int) -> int:
        """Enter `amount` and return its stamp, by which `adjust` finds it again."""
        words, base = self.words, self._base
        head, region = words[base + _HEAD], words[base + _REGION]
        offset, capacity = region >> 32, region & _CAPACITY_MASK
        used = head - words[base + _TAIL]
        if used:
            last = offset + (head - 1) % capacity
            # Everything here depends on the order of the stamps, so don't trust the clock alone.
            now_ns = max(now_ns, words[last])
            if words[last] == now_ns or used == capacity:
                # A full ring counts too much rather than too little: the last entry leaves later.
                # Stamp first: killed in between, the new amount was not taken.
                words[last] = now_ns
                words[last + capacity] += amount
                words[base + _TOTAL] += amount
                return now_ns
        position = offset + head % capacity
        words[position] = now_ns
        words[position + capacity] = amount
        words[base + _HEAD] = head + 1  # from here on it counts
        words[base + _TOTAL] += amount
        return now_ns

    def adjust(self, stamp_ns: int, change: int) -> None:
        """Change the amount that was entered under `stamp_ns`, if it is still in the log."""
        words, base = self.words, self._base
        head, tail = words[base + _HEAD], words[base + _TAIL]
        entry = self._first_after(stamp_ns - 1)
        if entry == head or words[self._stamp_at(entry)] != stamp_ns:
            return
        words[self._stamp_at(entry) + self.capacity] += change
        words[base + _TOTAL] += change
        # Entries given back at once leave no trace, so refused requests do not fill the ring.
        while head > tail and words[self._stamp_at(head - 1) + self.capacity] == 0:
            head -= 1
            words[base + _HEAD] = head

    def stamp_freeing(self, amount: int) -> int | None:
        """Return the stamp of the entry with which `amount` has left; None if it never has."""
        words, base, region = self.words, self._base, self.words[self._base + _REGION]
        offset, capacity = region >> 32, region & _CAPACITY_MASK
        for entry in range(words[base + _TAIL], words[base + _HEAD]):
            at = offset + entry % capacity
            amount -= words[at + capacity]
            if amount <= 0:
                return words[at]
        return None

    def recount(self) -> None:
        """Compute the total from the entries."""
        words, base = self.words, self._base
        words[base + _TOTAL] = sum(self._column(1, words[base + _TAIL], words[base + _HEAD]))

    def move(self, offset: int, capacity: int) -> None:
        """Move to another, larger region: copy, then switch over with one store."""
        words, base = self.words, self._base
        tail, head = words[base + _TAIL], words[base + _HEAD]
        for column in (0, 1):
            first = offset + column * capacity
            for entry, value in enumerate(self._column(column, tail, head), start=tail):
                words[first + entry % capacity] = value
        words[base + _REGION] = offset << 32 | capacity

    def _stamp_at(self, entry: int) -> int:
        """Return the index of an entry's stamp; its amount is `capacity` words further."""
        region = self.words[self._base + _REGION]
        return (region >> 32) + entry % (region & _CAPACITY_MASK)

    def _first_after(self, stamp_ns: int) -> int:
        """Return the number of the first entry after `stamp_ns`; the head's if there is none."""
        words, base = self.words, self._base
        tail, head, region = words[base + _TAIL], words[base + _HEAD], words[base + _REGION]
        offset, capacity = region >> 32, region & _CAPACITY_MASK
        entries, stamps = range(tail, head), lambda entry: words[offset + entry % capacity]
        return tail + bisect_right(entries, stamp_ns, key=stamps)

    def _column(self, column: int, tail: int, head: int) -> Iterable[int]:
        """Return the stamps (column 0) or amounts (1) from `tail` to before `head`, not copied."""
        if tail == head:
            return ()
        capacity = self.capacity
        first = self._stamp_at(0) + column * capacity
        ring = self.words[first : first + capacity]
        start, end = tail % capacity, tail % capacity + head - tail
        return chain(ring[start:end], ring[: max(0, end - capacity)])
