"""How far a run is, on stderr: one line kept fresh on a terminal, a line now and then elsewhere."""

import asyncio
import sys
from time import perf_counter
from typing import TextIO

from bench.load.drive import Budget
from bench.load.tally import Tally

_TERMINAL_INTERVAL_S = 0.25
_PLAIN_INTERVAL_S = 5.0
_BAR_WIDTH = 24


class Progress:
    """Shows a tally until it is cancelled."""

    def __init__(self, tally: Tally, budget: Budget, out: TextIO = sys.stderr) -> None:
        self._tally = tally
        self._budget = budget
        self._out = out
        self._terminal = out.isatty()
        self._before = (budget.started, 0)

    async def show(self) -> None:
        """Write a line at each interval."""
        interval_s = _TERMINAL_INTERVAL_S if self._terminal else _PLAIN_INTERVAL_S
        try:
            while True:
                await asyncio.sleep(interval_s)
                if self._terminal:
                    self._out.write(f"\r{self.line()}\x1b[K")
                else:
                    self._out.write(f"{self.line()}\n")
                self._out.flush()
        finally:
            if self._terminal:
                self._out.write("\r\x1b[K")
                self._out.flush()

    def line(self) -> str:
        """Return the line for now; its rate is that since the line before."""
        now = perf_counter()
        tally = self._tally
        ended = tally.completed + tally.failed
        then, ended_then = self._before
        self._before = (now, ended)
        rate = (ended - ended_then) / (now - then) if now > then else 0.0
        fraction = self._budget.fraction()
        elapsed_s = now - self._budget.started
        eta = f"{elapsed_s / fraction - elapsed_s:.0f} s" if fraction > 0 else "?"
        bar = ""
        if self._terminal:
            done = int(fraction * _BAR_WIDTH)
            bar = f"[{'#' * done}{'.' * (_BAR_WIDTH - done)}] "
        return (
            f"{bar}{fraction:4.0%}  {ended} done  {rate:.1f}/s  {tally.in_flight} in flight  "
            f"{tally.failed} errors  eta {eta}"
        )
