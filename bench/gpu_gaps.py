"""The time in which an engine's device had nothing to do, from the record of its steps."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.compare.results import Measures


class Gaps(msgspec.Struct, frozen=True):
    """Idle time between steps.

    Attributes:
        steps: How many there were.
        idle_share: Of the time from the first step to the last.
        p50_us, p99_us: Of the gaps, those of length zero among them.
    """

    steps: int
    idle_share: float
    p50_us: float
    p99_us: float

    def measures(self) -> Measures:
        """Return them by the names of a table."""
        return {
            "steps": float(self.steps),
            "idle_share": self.idle_share,
            "idle_gap_us.p50": self.p50_us,
            "idle_gap_us.p99": self.p99_us,
        }


def read_steps(path: Path, since_s: float, until_s: float) -> list[tuple[float, float]]:
    """Return starts and ends in a span of the monotonic clock, from all processes' files."""
    found = []
    for file in path.parent.glob(f"{path.name}.*"):
        for line in file.read_text().splitlines():
            start, _, end = line.partition(" ")
            # A line that is being written is not whole yet.
            if end.count(".") == 1 and since_s <= float(start) and float(end) <= until_s:
                found.append((float(start), float(end)))
    return sorted(found)


def gaps_of(steps: Sequence[tuple[float, float]]) -> Gaps | None:
    """Return the gaps between steps in order of their start, or None if there are too few."""
    if len(steps) < 2:
        return None
    began, ended = steps[0]
    gaps = []
    for start, end in steps[1:]:
        # What overlaps, as with work that was given ahead, leaves no gap.
        gaps.append(max(0.0, start - ended))
        ended = max(ended, end)
    idle_s = sum(gaps)
    gaps.sort()
    return Gaps(
        steps=len(steps),
        idle_share=idle_s / (ended - began),
        p50_us=gaps[len(gaps) // 2] * 1e6,
        p99_us=gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))] * 1e6,
    )
