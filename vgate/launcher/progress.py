"""Shows how long a phase of work takes: one line on a terminal, or a few in a log.

As `environments`, this needs only Python 3.8 and the standard library.
"""

from __future__ import annotations

import os
import shutil
import time

TYPE_CHECKING = False  # as in typing, whose import would slow down every start
if TYPE_CHECKING:
    from typing import TextIO

FIRST_AFTER_S = 2.0
EVERY_S = 5.0
CLEAR_LINE = "\r\x1b[K"


class Phase:
    """A phase of work, from its construction to `end`.

    A terminal shows one line that each tick refreshes. Elsewhere, lines are printed every few
    seconds and at the end.
    """

    def __init__(self, title: str, out: TextIO) -> None:
        self._title = title
        self._out = out
        self._in_place = out.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._next_line_s = FIRST_AFTER_S
        self.tick()

    def tick(self) -> None:
        """Show the time so far. Call it a few times a second."""
        elapsed_s = time.monotonic() - self._began
        text = f"  {self._title} ... {elapsed_s:.0f} s"
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            print(CLEAR_LINE + text[:width], end="", file=self._out, flush=True)
        elif elapsed_s >= self._next_line_s:
            self._next_line_s = elapsed_s + EVERY_S
            print(text, file=self._out, flush=True)

    def show(self, text: str) -> None:
        """Show lines of text above the phase's own line."""
        print((CLEAR_LINE if self._in_place else "") + text.rstrip(), file=self._out, flush=True)

    def end(self, outcome: str = "") -> None:
        """Show how long the phase took, after `outcome`, such as "failed after"."""
        took = f"{outcome} {time.monotonic() - self._began:.1f} s".strip()
        self.show(f"  {self._title}: {took}")

    def __enter__(self) -> Phase:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("failed after" if kind else "")
