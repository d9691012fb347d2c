"""How fast requests finish, and so how long a queue will take. Pure."""

import math

_HALF_LIFE_S = 10.0
_RETRY_AFTER_MIN_S, _RETRY_AFTER_MAX_S = 1.0, 60.0


class FinishRate:
    """The requests that finished, of which the earlier ones count less and less."""

    def __init__(self) -> None:
        self._weight, self._finished_at = 0.0, 0.0

    def finished(self, now: float) -> None:
        """Note that a request finished."""
        half_lives = (now - self._finished_at) / _HALF_LIFE_S
        self._weight = self._weight * math.exp2(-half_lives) + 1.0
        self._finished_at = now

    def retry_after_s(self, waiting: int) -> float:
        """Estimate the seconds until so many have started."""
        # A steady rate r gives a weight of r * half-life / ln 2.
        rate = self._weight * math.log(2) / _HALF_LIFE_S
        seconds = waiting / rate if rate else _RETRY_AFTER_MIN_S
        return min(_RETRY_AFTER_MAX_S, max(_RETRY_AFTER_MIN_S, seconds))
