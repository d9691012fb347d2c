"""The engine's counts, updated per step and per request, never per token. Pure."""

from bisect import bisect_left
from collections.abc import Sequence

from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats, Histogram


class _Counter:
    """Counts observations by bucket; one that equals a bound is in that bound's bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def now(self) -> Histogram:
        return Histogram(self._counts.copy(), self._total)


class StatsCounter:
    """The counts of one engine; its owner sets `memory_reductions`."""

    def __init__(self) -> None:
        self.memory_reductions = 0
        self._batch_size = _Counter(BATCH_SIZE)
        self._step_s = _Counter(STEP_S)
        self._inter_token_s = _Counter(STEP_S)
        self._queue_s = _Counter(REQUEST_S)

    def step(self, batch_size: int, seconds: float) -> None:
        """Count a step."""
        self._batch_size.observe(batch_size)
        self._step_s.observe(seconds)
        self._inter_token_s.observe(seconds, batch_size)

    def started(self, waited_s: float) -> None:
        """Count a request that was admitted to the batch after `waited_s` in the queue."""
        self._queue_s.observe(waited_s)

    def now(self, preemptions: int, queries: int, hits: int) -> EngineStats:
        """Return these counts together with the backend's."""
        return EngineStats(
            self._batch_size.now(),
            self._step_s.now(),
            self._inter_token_s.now(),
            self._queue_s.now(),
            preemptions,
            queries,
            hits,
            self.memory_reductions,
        )
