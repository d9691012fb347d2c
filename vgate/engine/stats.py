"""The engine's counts, updated per step and per request, never per token. Pure."""

from bisect import bisect_left
from collections.abc import Sequence

from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats, Histogram


class StatsCounter:
    """The counts of one engine."""

    def __init__(self) -> None:
        self._batch_size = _empty(BATCH_SIZE)
        self._step_s = _empty(STEP_S)
        self._inter_token_s = _empty(STEP_S)
        self._queue_s = _empty(REQUEST_S)

    def step(self, batch_size: int, seconds: float) -> None:
        """Count a step."""
        _observe(self._batch_size, BATCH_SIZE, batch_size)
        _observe(self._step_s, STEP_S, seconds)
        _observe(self._inter_token_s, STEP_S, seconds, batch_size)

    def started(self, waited_s: float) -> None:
        """Count a request that was admitted to the batch after `waited_s` in the queue."""
        _observe(self._queue_s, REQUEST_S, waited_s)

    def now(self, preemptions: int, queries: int, hits: int) -> EngineStats:
        """Return these counts together with the backend's. They change with the next count."""
        ours = self._batch_size, self._step_s, self._inter_token_s, self._queue_s
        return EngineStats(*ours, preemptions, queries, hits)


def _empty(bounds: Sequence[float]) -> Histogram:
    return Histogram([0] * (len(bounds) + 1), 0.0)


def _observe(histogram: Histogram, bounds: Sequence[float], value: float, times: int = 1) -> None:
    """Count a value; one that equals a bound is in that bound's bucket."""
    histogram.counts[bisect_left(bounds, value)] += times
    histogram.total += value * times
