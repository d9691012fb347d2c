"""Metrics that engines and this frontend's cache report, made when `/metrics` is requested.

Engines send their counts with their heartbeats to every frontend, so any frontend can show them.
The counts start again with the engine's process, which Prometheus understands.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from vgate.frontend.cache.port import StoreUsage
from vgate.frontend.engines import Models
from vgate.frontend.observe import count_files
from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats, Histogram

_LABELS = ("model",)

# Name, text, field of `EngineStats` (and the bounds of its buckets).
_HISTOGRAMS = (
    ("vgate_batch_size", "Sequences in each step.", "batch_size", BATCH_SIZE),
    (
        "vgate_batch_processing_seconds",
        "Time that each step of the engine took.",
        "step_s",
        STEP_S,
    ),
    (
        "vgate_inter_token_latency_seconds",
        "Time between two tokens of a sequence, as the engine makes them.",
        "inter_token_s",
        STEP_S,
    ),
    (
        "vgate_queue_time_seconds",
        "Time that requests waited in the queue.",
        "queue_s",
        REQUEST_S,
    ),
)
_COUNTERS = (
    ("preemptions", "Sequences that lost their KV cache and were computed again."),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache."),
)


class EngineCollector(Collector):
    """Collects what is known now of the served models and of this process's cache."""

    def __init__(self, models: Models, cache: StoreUsage) -> None:
        self._models = models
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        ready = self._models.not_ready_because() is None
        yield _gauge("vgate_up", "1 while this frontend serves HTTP.", 1)
        yield _gauge("vgate_ready", "1 while a request would be served.", ready)
        in_memory = len(count_files.in_memory_because())
        text = "Files of this frontend's counts that are in memory only, as on a full disk."
        yield _gauge("vgate_counts_in_memory", text, in_memory)
        yield from self._engines()
        yield _gauge("vgate_cache_entries", "Answers in the result cache.", self._cache.entries)
        yield _gauge("vgate_cache_bytes", "Size of the result cache.", self._cache.size_bytes)

    def _engines(self) -> Iterator[Metric]:
        names = (
            ("vgate_engine_ready", "1 while the model's engine serves."),
            ("vgate_running_requests", "Sequences in the engine's batch."),
            ("vgate_waiting_requests", "Requests in the engine's queue."),
            ("vgate_kv_cache_usage_ratio", "Share of the KV cache in use."),
        )
        gauges = [GaugeMetricFamily(name, text, labels=_LABELS) for name, text in names]
        restarts = CounterMetricFamily(
            "vgate_engine_restarts", "Times that the engine was started again.", labels=_LABELS
        )
        text = "How often the engine was made smaller because it ran out of memory."
        reduced = GaugeMetricFamily("vgate_engine_memory_reductions", text, labels=_LABELS)
        stats = []
        for model in self._models.states():
            status = model.status
            values = (model.ready, status.running, status.waiting, status.kv_cache_usage)
            for gauge, value in zip(gauges, values, strict=True):
                gauge.add_metric([model.name], value)
            restarts.add_metric([model.name], model.engine.restarts)
            if status.stats is not None:
                stats.append((model.name, status.stats))
                reduced.add_metric([model.name], status.stats.memory_reductions)
        yield from gauges
        yield restarts
        yield reduced
        yield from _histograms(stats)
        yield from _counters(stats)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _histograms(stats: Sequence[tuple[str, EngineStats]]) -> Iterator[Metric]:
    for name, text, field, bounds in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for model, of_model in stats:
            histogram: Histogram = getattr(of_model, field)
            family.add_metric([model], _cumulative(histogram, bounds), histogram.total)
        yield family


def _cumulative(histogram: Histogram, bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: each counts everything up to its bound."""
    names = (*map(floatToGoString, bounds), "+Inf")
    return list(zip(names, map(float, accumulate(histogram.counts)), strict=True))


def _counters(stats: Sequence[tuple[str, EngineStats]]) -> Iterator[Metric]:
    for field, text in _COUNTERS:
        family = CounterMetricFamily(f"vgate_{field}", text, labels=_LABELS)
        for model, of_model in stats:
            family.add_metric([model], getattr(of_model, field))
        yield family
