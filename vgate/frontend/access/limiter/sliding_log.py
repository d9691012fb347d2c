"""A sliding log of amounts in shared memory: what was taken in the last window, to the nanosecond.

Pure arithmetic on an array of 64-bit words that all workers share; whoever calls a method holds
the lock. Entries are ``(stamp, amount)``, ordered by stamp, in a ring. A request log has amounts
of 1, a token log has tokens.

A worker can be killed between any two stores. So each method changes what counts (the ring's ends
and its entries) by single stores of one word, in an order in which every state between is one that
is right or one that counts too much for at most a window. ``total`` is only a cache of the sum:
`recount` restores it, and the lock's next holder calls that when the last one died.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, chain

# Words of a log's header.
_REGION = 0  # offset << 32 | capacity of the ring, in one word, so that growing is one store
_HEAD = 1  # entries ever written
_TAIL = 2  # entries ever dropped
_TOTAL = 3  # sum of the amounts from tail to head
_DROPPED = 4  # stamp of the youngest entry ever dropped
HEADER_WORDS = 8

# Entries kept for what does not fit exactly. From the moment that the ring has only these left, an
# entry gathers all amounts of one 1/1022 of the window and leaves with its youngest, which is
# late by less than that: more is refused than need be, never less, and the ring can't overflow.
COARSE_ENTRIES = 1024
# Beyond this a log is no longer exact but coarse, as above: 4 MiB.
_MAX_EXACT_ENTRIES = 262_144 - COARSE_ENTRIES

_CAPACITY_MASK = (1 << 32) - 1

# How a log stands: the sum of its amounts, and the stamp of the oldest, if there is one.
Stands = tuple[int, int | None]


def entries_for(exact: int) -> int:
    """Return the capacity of a log that keeps at least `exact` entries apart from each other."""
    # Powers of two, so that a limit that grows in small steps does not move the log every time.
    return min(1 << (exact - 1).bit_length(), _MAX_EXACT_ENTRIES) + COARSE_ENTRIES


def words_for(capacity: int) -> int:
    """Return the words that a ring of this capacity takes."""
    return 2 * capacity


class SlidingLog:
    """One log.

    Args:
        words: The shared memory, as signed 64-bit words.
        base: Index of the log's header.
    """

    __slots__ = ("_base", "_words")

    def __init__(self, words: memoryview[int], base: int) -> None:
        self._words = words
        self._base = base

    def rebind(self, words: memoryview[int]) -> None:
        """Go on with a larger view of the same memory."""
        self._words = words

    @property
    def capacity(self) -> int:
        """Entries that fit; 0 before the first `move`."""
        return self._words[self._base + _REGION] & _CAPACITY_MASK

    @property
    def total(self) -> int:
        """Sum of all amounts, as of the last time that what is old was dropped."""
        return self._words[self._base + _TOTAL]

    def stands(self, until_ns: int) -> Stands:
        """Drop what is stamped `until_ns` or earlier, and say how the rest stands.

        `until_ns` is in the past: nothing is entered at or before it any more.
        """
        words, base = self._words, self._base
        tail = words[base + _TAIL]
        if tail == words[base + _HEAD]:
            return words[base + _TOTAL], None
        # In full, as it is looked up several times a request: `words[self._stamp_at(tail)]`.
        region = words[base + _REGION]
        oldest_ns = words[(region >> 32) + tail % (region & _CAPACITY_MASK)]
        if oldest_ns > until_ns:
            return words[base + _TOTAL], oldest_ns
        total, tail = self._drop(until_ns)
        return total, None if tail == words[base + _HEAD] else words[self._stamp_at(tail)]

    def _drop(self, until_ns: int) -> tuple[int, int]:
        """Drop what is so old, of which there is some; return the new sum and tail."""
        words, base = self._words, self._base
        head, tail = words[base + _HEAD], words[base + _TAIL]
        youngest = words[self._stamp_at(head - 1)]
        if youngest <= until_ns:
            kept, total = head, 0
        else:
            kept = self._first_after(until_ns)
            youngest = words[self._stamp_at(kept - 1)]
            total = words[base + _TOTAL] - sum(self._amounts(tail, kept))
        words[base + _DROPPED] = youngest
        words[base + _TOTAL] = total
        words[base + _TAIL] = kept
        return total, kept

    def add(self, now_ns: int, amount: int, window_ns: int) -> int:
        """Enter `amount` and return its stamp, by which `adjust` finds it again."""
        words, base = self._words, self._base
        head, region = words[base + _HEAD], words[base + _REGION]
        offset, capacity = region >> 32, region & _CAPACITY_MASK
        used = head - words[base + _TAIL]
        if used:
            last = offset + (head - 1) % capacity
            last_ns = words[last]
            # The clock is read under the lock and never goes back; the order is what everything
            # here rests on, so it does not rest on that alone.
            now_ns = max(now_ns, last_ns)
            if _merges(last_ns, now_ns, capacity - used, window_ns):
                # Stamp first: killed in between, old amounts stay longer, and the new one, which
                # nobody is going to use, was not taken.
                words[last] = now_ns
                words[last + capacity] += amount
                words[base + _TOTAL] += amount
                return now_ns
        place = offset + head % capacity
        words[place] = now_ns
        words[place + capacity] = amount
        words[base + _HEAD] = head + 1  # from here on it counts
        words[base + _TOTAL] += amount
        return now_ns

    def adjust(self, stamp_ns: int, change: int) -> None:
        """Change what was entered under `stamp_ns`, if that is still in the log."""
        words, base = self._words, self._base
        if stamp_ns <= words[base + _DROPPED]:
            return
        # A merged entry has the stamp of its youngest part, so the first at or after is the one.
        sequence = self._first_after(stamp_ns - 1)
        head, tail = words[base + _HEAD], words[base + _TAIL]
        if sequence == head:
            return
        words[self._stamp_at(sequence) + self.capacity] += change
        words[base + _TOTAL] += change
        # What was given back at once leaves no trace, so refused requests do not fill the ring.
        while head > tail and words[self._stamp_at(head - 1) + self.capacity] == 0:
            head -= 1
            words[base + _HEAD] = head

    def stamp_freeing(self, amount: int) -> int | None:
        """Return the stamp of the entry with whose leaving `amount` will have left.

        None if there is not that much.
        """
        words, base = self._words, self._base
        head, tail = words[base + _HEAD], words[base + _TAIL]
        if tail < head:
            # What a request log answers every time: all its amounts are 1.
            first = self._stamp_at(tail)
            if words[first + self.capacity] >= amount:
                return words[first]
        for index, freed in enumerate(accumulate(self._amounts(tail, head))):
            if freed >= amount:
                return words[self._stamp_at(tail + index)]
        return None

    def recount(self) -> None:
        """Make the total the sum again."""
        words, base = self._words, self._base
        words[base + _TOTAL] = sum(self._amounts(words[base + _TAIL], words[base + _HEAD]))

    def clear(self, now_ns: int) -> None:
        """Forget everything; what was entered before `now_ns` is not found any more."""
        words, base = self._words, self._base
        words[base : base + HEADER_WORDS] = memoryview(bytes(8 * HEADER_WORDS)).cast("q")
        words[base + _DROPPED] = now_ns - 1

    def move(self, offset: int, capacity: int) -> None:
        """Go on in another, larger region: copy, then switch over with one store."""
        words, base = self._words, self._base
        for sequence in range(words[base + _TAIL], words[base + _HEAD]):
            source, target = self._stamp_at(sequence), offset + sequence % capacity
            words[target] = words[source]
            words[target + capacity] = words[source + self.capacity]
        words[base + _REGION] = offset << 32 | capacity

    def _stamp_at(self, sequence: int) -> int:
        """Return where an entry's stamp is; its amount is `capacity` words further."""
        region = self._words[self._base + _REGION]
        return (region >> 32) + sequence % (region & _CAPACITY_MASK)

    def _first_after(self, stamp_ns: int) -> int:
        """Return the sequence number of the first entry after `stamp_ns`, or of the head."""
        words, base = self._words, self._base
        head, tail = words[base + _HEAD], words[base + _TAIL]
        first = self._stamp_at(tail)
        contiguous = self._offset + self.capacity - first
        if head - tail > contiguous and words[first + contiguous - 1] <= stamp_ns:
            # In the part that begins again at the ring's start.
            tail, first = tail + contiguous, self._offset
        end = first + min(head - tail, self._offset + self.capacity - first)
        return tail + bisect_right(words, stamp_ns, first, end) - first

    def _amounts(self, tail: int, head: int) -> chain[int]:
        """Iterate over the amounts from `tail` to before `head`, without copying them."""
        if tail == head:
            return chain()
        start = self._stamp_at(tail) + self.capacity
        ring = self._offset + self.capacity
        end = min(start + head - tail, ring + self.capacity)
        wrapped = head - tail - (end - start)
        return chain(self._words[start:end], self._words[ring : ring + wrapped])

    @property
    def _offset(self) -> int:
        return self._words[self._base + _REGION] >> 32


def _merges(last_ns: int, now_ns: int, room: int, window_ns: int) -> bool:
    """Whether a new entry goes into the last one."""
    if last_ns == now_ns or room == 0:  # no room: only just after the window grew
        return True
    if room > COARSE_ENTRIES:
        return False
    coarse_ns = max(1, window_ns // (COARSE_ENTRIES - 2))
    return last_ns // coarse_ns == now_ns // coarse_ns
