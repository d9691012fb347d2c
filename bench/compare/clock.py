"""The time that a comparison may take, and how it is shared out."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

# Kept for ending the contenders and writing the results.
_END_S = 8.0


class OutOfTimeError(Exception):
    """The comparison's time is over."""


class Clock:
    """Counts down from the whole comparison's time, of which each part has its share."""

    def __init__(self, total_s: float) -> None:
        self.started = monotonic()
        self._total_s = total_s
        self._reserved_s = 0.0

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Raise OutOfTimeError wherever the program is once the time is over."""

        def ring(*_arguments: Any) -> None:
            raise OutOfTimeError("the time is over")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.left_s - _END_S, 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the comparison began."""
        return monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until everything must have ended."""
        return self._total_s - self.elapsed_s

    def begin_part(self, share: float) -> None:
        """Begin a part that may have this share of the time that is left."""
        self._reserved_s = self.left_s * (1 - share)

    def allows(self, seconds: float) -> bool:
        """Say whether something optional of that length fits into the present part."""
        return self.left_s - self._reserved_s >= seconds
