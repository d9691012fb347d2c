"""Decides from one step to the next whether drafting tokens pays. Pure.

A step with drafts gives more tokens and takes longer: the drafts are made, and all are checked.
Which is faster is measured: the time that it takes to bring each sequence one token further, with
drafts and without, for batches of about the same size. Nothing is counted for each token.
"""

from collections.abc import Callable
from math import inf

# Steps that a measurement takes. The first ones after a change belong to neither side.
WINDOW_STEPS = 64
_SETTLING_STEPS = 2
# The other side has to be better by so much, and is measured again after so many windows: more and
# more of them while it stays worse.
_MARGIN = 0.98
_FIRST_HOLD, _LONGEST_HOLD = 16, 512
# With fewer right tokens for a sequence and step drafts can't pay, whatever the times say, which
# change by themselves on a loaded machine.
_LEAST_ACCEPTED = 0.02


class _Side:
    """Steps with drafts, or without.

    Attributes:
        pace: Seconds for a token of each sequence; None until it is measured.
        cost: What is compared.
    """

    def __init__(self) -> None:
        self.pace: float | None = None
        self.cost = 0.0
        self.accepted = 0.0


class _Batches:
    """Batches of about the same size."""

    def __init__(self) -> None:
        self.drafts = True
        self.sides = (_Side(), _Side())
        self.settled: bool | None = None
        self._steps = -_SETTLING_STEPS
        self._seconds = self._advance = 0.0
        self._hold, self._windows = _FIRST_HOLD, 0

    def observe(self, seconds: float, advance: float) -> bool:
        """Take a step of the side that is being used; return whether a window has ended."""
        self._steps += 1
        if self._steps <= 0:
            return False
        self._seconds += seconds
        self._advance += advance
        if self._steps < WINDOW_STEPS:
            return False
        mine, other = self.sides[self.drafts], self.sides[not self.drafts]
        mine.pace, mine.accepted = self._seconds / self._advance, self._advance / self._steps - 1
        hopeless = self.drafts and mine.accepted < _LEAST_ACCEPTED
        mine.cost = inf if hopeless else mine.pace
        self._steps, self._seconds, self._advance = 0, 0.0, 0.0
        self._choose(mine, other)
        return True

    def _choose(self, mine: _Side, other: _Side) -> None:
        self._windows += 1
        if other.pace is None:
            self._change()
            return
        if other.cost < mine.cost * _MARGIN:
            if self.settled is not (better := not self.drafts):
                self.settled, self._hold = better, _FIRST_HOLD
            self._change()
            return
        if self.settled == self.drafts and self._windows >= self._hold:
            # What the other side is worth now is not known any more.
            self._hold = min(2 * self._hold, _LONGEST_HOLD)
            self._change()
            return
        self.settled = self.drafts

    def _change(self) -> None:
        self.drafts = not self.drafts
        self._steps, self._windows = -_SETTLING_STEPS, 0


class DraftControl:
    """Chooses for each size of the batch, in powers of two.

    Attributes:
        drafts: Whether to draft, by the number of bits of the batch's size.
    """

    def __init__(self, most_sequences: int, report: Callable[[str], None]) -> None:
        """`report` is told when the choice for a size changes."""
        sizes = most_sequences.bit_length() + 1
        self.drafts = [True] * sizes
        self._batches = [_Batches() for _ in range(sizes)]
        self._report = report

    def observe(self, sequences: int, tokens: int, seconds: float, *, drafted: bool) -> bool:
        """Take a step without prompts; return whether `drafts` has changed.

        Args:
            sequences: How many it was for.
            tokens: What it gave them, at least one each.
            seconds: Its time.
            drafted: Whether it was made as `drafts` says for a batch that is drafted for.
        """
        size = sequences.bit_length()
        batches = self._batches[size]
        if drafted is not batches.drafts:
            return False  # it was under way when that changed
        before = batches.settled
        if not batches.observe(seconds, tokens / sequences):
            return False
        if batches.settled is not None and batches.settled is not before:
            self._tell(size, batches)
        changed = self.drafts[size] is not batches.drafts
        self.drafts[size] = batches.drafts
        return changed

    def _tell(self, size: int, batches: _Batches) -> None:
        plain, drafted = batches.sides
        if plain.pace is None or drafted.pace is None:
            return
        self._report(
            f"{'goes on' if batches.settled else 'stops'} for up to {2**size - 1} answers at once: "
            f"{drafted.accepted:.2f} drafted tokens were right in a step, and with them a token of "
            f"each takes {drafted.pace * 1000:.2f} ms, without {plain.pace * 1000:.2f} ms"
        )
