"""The gaps between the tokens of streams, measured once for each step and not for each token. Pure.

All streams of an engine get a token with each of its steps, so the time between two deliveries is a
gap of every running stream. Gaps are counted by size, and a stream keeps the counts from when it
began: at its end, their difference to the counts then is its own gaps. The longest gap since any
moment is found in a stack, in which each gap is shorter than the one below it.

The counts are one large integer in which each size has 40 bits, so one operation copies or
subtracts all of them. They are cumulative: a size's count includes the gaps of all smaller sizes.

A preempted sequence gets nothing from some steps, so its real gap is longer than the measured one.
"""

import struct
from bisect import bisect_left, bisect_right

# Upper bounds of the sizes, in seconds: from 0.2 ms, each 1.25 times the one before, to about 27 s.
BOUNDS_S = tuple(0.0002 * 1.25**number for number in range(54))
_SIZES = range(len(BOUNDS_S) + 1)
# Of a size's count in a stream. The counts of an engine may need more: the difference is the same.
_BITS = 32
_unpack = struct.Struct(f"<{len(_SIZES)}I").unpack
# What a gap of each size adds to the counts: one for its size, and for each larger one.
_ADDED = tuple(sum(1 << _BITS * larger for larger in _SIZES[size:]) for size in _SIZES)
# Of the stack; if gaps become shorter and shorter, the oldest ones are dropped.
_MOST_KEPT = 4096


class StreamGaps:
    """The gaps of one stream, in seconds.

    Attributes:
        counts: How many there are up to each size.
        longest_s: The longest one.
        began: The number of the delivery with its first tokens, and the counts by then; None
            while it gets no tokens.
        paused_at: When it got its last tokens from an engine that was lost.
    """

    __slots__ = ("began", "counts", "longest_s", "paused_at")

    def __init__(self) -> None:
        self.counts = 0
        self.longest_s = 0.0
        self.began: tuple[int, int] | None = None
        self.paused_at: float | None = None

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts >> _BITS * _SIZES[-1]

    @property
    def median_s(self) -> float | None:
        """The median, at most an eighth too high or too low; None without gaps."""
        if not self.counts:
            return None
        totals = _unpack(self.counts.to_bytes(len(_SIZES) * _BITS // 8, "little"))
        size = bisect_left(totals, (totals[-1] + 1) // 2)
        return min(self.longest_s, 0.9 * BOUNDS_S[size]) if size < len(BOUNDS_S) else self.longest_s


class Gaps:
    """The gaps of all streams of one engine.

    Attributes:
        last: When the last delivery came, in monotonic seconds.
    """

    def __init__(self) -> None:
        self._deliveries = 0
        self.last = 0.0
        self._counts = 0
        # The stack: the numbers of deliveries, and the gaps before them.
        self._numbers: list[int] = []
        self._longest: list[float] = []

    def delivered(self, now: float) -> None:
        """Note that new tokens are here, in monotonic seconds; before they are read."""
        gap_s, self.last = now - self.last, now
        self._deliveries += 1
        self._counts += _ADDED[bisect_left(BOUNDS_S, gap_s)]
        numbers, longest = self._numbers, self._longest
        while longest and longest[-1] <= gap_s:
            longest.pop()
            numbers.pop()
        longest.append(gap_s)
        numbers.append(self._deliveries)
        if len(longest) > _MOST_KEPT:
            del longest[: _MOST_KEPT // 2], numbers[: _MOST_KEPT // 2]

    def begin(self, stream: StreamGaps | None) -> None:
        """Measure the gaps of a stream from the last delivery on, if it has not begun."""
        if stream is None or stream.began is not None:
            return
        stream.began = self._deliveries, self._counts
        if stream.paused_at is not None:
            pause_s, stream.paused_at = self.last - stream.paused_at, None
            stream.longest_s = max(stream.longest_s, pause_s)

    def end(self, stream: StreamGaps | None) -> None:
        """Add the gaps of a stream up to the last delivery."""
        if stream is None or stream.began is None:
            return
        (number, before), stream.began = stream.began, None
        if number == self._deliveries:
            return
        at = bisect_right(self._numbers, number)
        stream.longest_s = max(stream.longest_s, self._longest[at])
        stream.counts += self._counts - before

    def interrupt(self, stream: StreamGaps | None) -> None:
        """End a stream's gaps here, because it is to go on in another engine."""
        if stream is not None and stream.began is not None:
            self.end(stream)
            stream.paused_at = self.last
