"""A histogram of durations in constant memory, with a bounded relative error."""

from math import ceil, exp, log

import msgspec

# Neighbouring buckets differ by 1.2 %, so a bucket's middle is at most 0.6 % from any duration
# in it: within the 1 % that the summary promises.
_RATIO = 1.012
_SCALE = 1 / log(_RATIO)
_SMALLEST_S = 1e-6
_LARGEST_S = 1e5
_LAST = int(log(_LARGEST_S / _SMALLEST_S) * _SCALE) + 1


class Spread(msgspec.Struct, frozen=True):
    """What a histogram says of its durations, all in milliseconds but `count`."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Histogram:
    """Durations in seconds. Those below a microsecond share one bucket and read as zero."""

    __slots__ = ("_below", "_counts", "largest_s", "smallest_s", "total_s")

    def __init__(self) -> None:
        self._counts = [0] * (_LAST + 1)
        self._below = 0
        self.total_s = 0.0
        self.largest_s = 0.0
        self.smallest_s = float("inf")

    @property
    def count(self) -> int:
        """How many durations were added."""
        return self._below + sum(self._counts)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        if seconds < _SMALLEST_S:
            self._below += 1
            self.smallest_s = 0.0
            return
        # max() and min() would be two calls more, and this runs once per chunk.
        self.total_s += seconds
        if seconds > self.largest_s:  # noqa: PLR1730
            self.largest_s = seconds
        if seconds < self.smallest_s:  # noqa: PLR1730
            self.smallest_s = seconds
        bucket = int(log(seconds * 1e6) * _SCALE)
        self._counts[bucket if bucket < _LAST else _LAST] += 1  # noqa: FURB136

    def quantile_s(self, fraction: float) -> float:
        """Return the nearest-rank quantile, in seconds; 0 if nothing was added."""
        remaining = max(1, ceil(fraction * self.count)) - self._below
        if remaining <= 0:
            return 0.0
        for bucket, count in enumerate(self._counts):
            remaining -= count
            if count and remaining <= 0:
                middle_s = _SMALLEST_S * exp((bucket + 0.5) / _SCALE)
                return min(max(middle_s, self.smallest_s), self.largest_s)
        return 0.0

    def spread(self) -> Spread | None:
        """Return the percentiles, or None if nothing was added."""
        count = self.count
        if not count:
            return None

        def ms(seconds: float) -> float:
            return round(seconds * 1000, 4)

        return Spread(
            count=count,
            mean=ms(self.total_s / count),
            min=ms(self.smallest_s),
            p50=ms(self.quantile_s(0.50)),
            p90=ms(self.quantile_s(0.90)),
            p95=ms(self.quantile_s(0.95)),
            p99=ms(self.quantile_s(0.99)),
            max=ms(self.largest_s),
        )
