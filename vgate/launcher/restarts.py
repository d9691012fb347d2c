"""When to start a process again that died. Pure."""

from __future__ import annotations

from collections import deque

_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 30.0


class RestartPolicy:
    """Exponential back-off, and an end to it.

    Args:
        max_restarts: Restarts within the window; one more death is a crash loop.
        window_s: How long a death is remembered.
    """

    def __init__(self, max_restarts: int, window_s: float) -> None:
        self._max_restarts = max_restarts
        self._window_s = window_s
        self._deaths: deque[float] = deque()

    def next_delay_s(self, now: float) -> float | None:
        """Note a death; return the seconds to wait before the restart, or None to give up."""
        while self._deaths and self._deaths[0] <= now - self._window_s:
            self._deaths.popleft()
        self._deaths.append(now)
        if len(self._deaths) > self._max_restarts:
            return None
        return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** (len(self._deaths) - 1))
