"""The engine's counts, updated per step and per request, never per token. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from vgate.engine.request import Request
from vgate.wire.stats import BATCH_SIZE, LENGTHS, REQUEST_S, STEP_S, EngineStats, Histogram


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
        self._prefill_s = _Counter(REQUEST_S)
        self._finished = {"stop": 0, "length": 0}
        self._prompt_tokens = _Counter(LENGTHS)
        self._generated_tokens = _Counter(LENGTHS)
        self._decode_s = _Counter(REQUEST_S)

    def step(self, batch_size: int, seconds: float) -> None:
        """Count a step."""
        self._batch_size.observe(batch_size)
        self._step_s.observe(seconds)
        self._inter_token_s.observe(seconds, batch_size)

    def started(self, waited_s: float) -> None:
        """Count a request that was admitted to the batch after `waited_s` in the queue."""
        self._queue_s.observe(waited_s)

    def prefilled(self, times_s: Iterable[float]) -> None:
        """Count sequences that got their first token so long after their start."""
        for seconds in times_s:
            self._prefill_s.observe(seconds)

    def finished(self, request: Request, now: float) -> None:
        """Count a sequence that is complete; an embedding has no finish reason."""
        if (reason := request.finish_reason) is not None:
            self._finished[reason] += 1
        self._prompt_tokens.observe(len(request.prompt))
        if request.timing is not None:
            self._generated_tokens.observe(request.generated_tokens)
            self._decode_s.observe(now - request.started - request.timing.prefill_s)

    def now(
        self, preemptions: int, queries: int, hits: int, drafted: int = 0, accepted: int = 0
    ) -> EngineStats:
        """Return these counts together with the backend's."""
        return EngineStats(
            self._batch_size.now(),
            self._step_s.now(),
            self._inter_token_s.now(),
            self._queue_s.now(),
            self._prefill_s.now(),
            preemptions,
            queries,
            hits,
            self.memory_reductions,
            self._finished["stop"],
            self._finished["length"],
            self._prompt_tokens.now(),
            self._generated_tokens.now(),
            self._decode_s.now(),
            drafted,
            accepted,
        )
