"""The time that a comparison may take, and how it is shared out."""

from time import monotonic


class Clock:
    """Counts down from the whole comparison's time. `reserved_s` is kept for what comes later."""

    def __init__(self, total_s: float) -> None:
        self.started = monotonic()
        self._total_s = total_s
        self.reserved_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the comparison began."""
        return monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until everything must have ended."""
        return self._total_s - self.elapsed_s

    def allows(self, seconds: float) -> bool:
        """Say whether something optional of that length fits in before what is reserved."""
        return self.left_s - self.reserved_s >= seconds
