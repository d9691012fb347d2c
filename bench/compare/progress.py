"""What the comparison is doing, on stderr: one line for each step, with the time so far."""

import sys
from typing import TextIO

from bench.compare.clock import Clock


class Progress:
    """Writes the lines."""

    def __init__(self, clock: Clock, out: TextIO | None = None) -> None:
        self._clock = clock
        self._out = out
        self.prefix = ""

    def say(self, what: str) -> None:
        """Write a line."""
        out = sys.stderr if self._out is None else self._out
        prefix = f"{self.prefix}: " if self.prefix else ""
        print(f"[{self._clock.elapsed_s:4.0f} s] {prefix}{what}", file=out, flush=True)
