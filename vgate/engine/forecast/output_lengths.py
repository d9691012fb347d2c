"""How long answers become, learned from those that have ended. Pure."""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise
from operator import mul

# Lengths are counted in classes, eight from one power of two to the next.
_BOUNDS = sorted({0, *(round(2 ** (step / 8)) for step in range(8 * 20 + 1))})
_WIDTHS = [after - before for before, after in pairwise(_BOUNDS)]
# Before anything is known: half of all answers exceed this, a quarter three times as much, and so
# on. It counts as much as so many answers; what the answers of all keys say, as many of one's own.
_FIRST_MEDIAN = 256
_FIRST_WEIGHT = 4.0
_COMMON_WEIGHT = 16.0
# With so many, each counts half from then on.
_REMEMBERED = 512
_REFRESHED_EVERY = 16
# Evenly spread quantiles.
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


class OutputLengths:
    """The distribution of lengths (Kaplan and Meier, 1958).

    An answer that was cut by its limit only tells that it would have been at least so long.
    `common` is what to believe before there are enough.
    """

    def __init__(self, common: "OutputLengths | None" = None) -> None:
        self._common = common
        self._weight = _FIRST_WEIGHT if common is None else _COMMON_WEIGHT
        self._ended = [0.0] * len(_WIDTHS)
        self._cut = [0.0] * len(_WIDTHS)
        self._seen = self._unread = 0
        # How often this was refreshed, and the common one when this was.
        self.version = self._common_version = 0
        self._refresh()

    def add(self, tokens: int, *, cut: bool) -> None:
        """Note an answer that has ended."""
        (self._cut if cut else self._ended)[class_of(tokens)] += 1.0
        self._unread += 1
        self._seen += 1
        if self._seen == _REMEMBERED:
            self._seen //= 2
            self._ended = [count / 2 for count in self._ended]
            self._cut = [count / 2 for count in self._cut]

    def quantile(self, share: float, generated: int, most: int) -> int:
        """Return the length that this share of the answers with `generated` tokens don't exceed.

        It is above `generated`, and at most `most`.
        """
        if self._is_stale():
            self._refresh()
        ended, at = self._ended_by, class_of(generated)
        part = (generated - _BOUNDS[at]) / _WIDTHS[at]
        alive = 1.0 - ended[at] - part * (ended[at + 1] - ended[at])
        sought = 1.0 - alive * (1.0 - share)
        at = min(bisect_right(ended, sought), len(_WIDTHS)) - 1
        part = (sought - ended[at]) / (ended[at + 1] - ended[at])
        return max(generated + 1, min(most, _BOUNDS[at] + math.ceil(part * _WIDTHS[at])))

    def mean(self) -> int:
        """Return the mean length, roughly: the few longest answers are left out."""
        return sum(self.quantile(share, 0, _BOUNDS[-1]) for share in _SHARES) // len(_SHARES)

    def _is_stale(self) -> bool:
        if self._seen:
            return self._unread >= min(_REFRESHED_EVERY, self._seen)
        # What the common one says is all that is known.
        return self._common is not None and self._common_version != self._common.version

    def _refresh(self) -> None:
        self._unread = 0
        self.version += 1
        if self._common is None:
            ends = zip(_WIDTHS, _BOUNDS[1:], strict=True)
            usual = [width / (_FIRST_MEDIAN + end) for width, end in ends]
        else:
            usual, self._common_version = self._common.hazards, self._common.version
        hazards = list(usual)
        at_risk = self._weight
        for at in reversed(range(len(_WIDTHS))):
            ended, cut = self._ended[at], self._cut[at]
            at_risk += ended + cut
            # Those that were cut in this class were at risk in half of it.
            hazards[at] = (ended + self._weight * usual[at]) / (at_risk - cut / 2)
        alive = accumulate((1.0 - hazard for hazard in hazards), mul, initial=1.0)
        # Of those that reach a class, the share that ends in it; of all, what ended before it.
        self.hazards: list[float] = hazards
        self._ended_by = [1.0 - share for share in alive]


def class_of(tokens: int) -> int:
    """Return the class of a length, whose lengths differ by a tenth."""
    return min(bisect_right(_BOUNDS, tokens), len(_WIDTHS)) - 1
