"""Metrics that engines and this frontend's cache know, made when somebody asks for them.

An engine counts for itself and tells in its heartbeat; every frontend hears it, so whichever of
them is asked can show it. Its counts begin anew with its process, which Prometheus understands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from vgate.frontend.cache.port import StoreUsage
from vgate.frontend.engines.port import Models
from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats, Histogram

_LABELS = ("model",)


class EngineCollector(Collector):
    """Collects what is known now of the served models and of this process's cache."""

    def __init__(self, models: Models, cache: StoreUsage) -> None:
        self._models = models
        self._cache_figures = cache

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield _gauge("vgate_up", "1 while this frontend serves HTTP.", 1)
        ready = self._models.not_ready_because() is None
        yield _gauge("vgate_ready", "1 while a request would be served.", ready)
        yield from self._engines()
        yield from self._cache()

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
        models = self._models.states()
        for model in models:
            status = model.status
            values = (
                model.ready,
                status.running,
                status.waiting,
                status.kv_cache_usage,
            )
            for gauge, value in zip(gauges, values, strict=True):
                gauge.add_metric([model.name], value)
            restarts.add_metric([model.name], model.engine.restarts)
        yield from gauges
        yield restarts
        stats = [
            (model.name, model.status.stats) for model in models if model.status.stats is not None
        ]
        yield from _histograms(stats)
        yield from _counters(stats)

    def _cache(self) -> Iterator[Metric]:
        cache = self._cache_figures
        yield _gauge("vgate_cache_entries", "Answers in the result cache.", cache.entries)
        yield _gauge("vgate_cache_bytes", "Size of the result cache.", cache.size_bytes)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family


def _histograms(stats: Sequence[tuple[str, EngineStats]]) -> Iterator[Metric]:
    for name, text, attribute, bounds in (
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
    ):
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for model, of_model in stats:
            histogram: Histogram = getattr(of_model, attribute)
            family.add_metric([model], _cumulative(histogram, bounds), histogram.total)
        yield family


def _cumulative(histogram: Histogram, bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: each counts all that is at most its bound."""
    names = [*map(floatToGoString, bounds), "+Inf"]
    total = 0
    cumulative = []
    for name, count in zip(names, histogram.counts, strict=True):
        total += count
        cumulative.append((name, float(total)))
    return cumulative


def _counters(stats: Sequence[tuple[str, EngineStats]]) -> Iterator[Metric]:
    for name, text, attribute in (
        (
            "vgate_preemptions",
            "Sequences that lost their KV cache and were computed again.",
            "preemptions",
        ),
        (
            "vgate_prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache.",
            "prefix_cache_queries",
        ),
        (
            "vgate_prefix_cache_hits",
            "Prompt tokens found in the prefix cache.",
            "prefix_cache_hits",
        ),
    ):
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for model, of_model in stats:
            family.add_metric([model], getattr(of_model, attribute))
        yield family
