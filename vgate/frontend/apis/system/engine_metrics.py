"""Metrics that engines and this frontend's cache report, made when `/metrics` is requested.

Engines send their counts with their heartbeats to every frontend, so any frontend can show them.
The counts start again with the engine's process, which Prometheus understands.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from vgate import __version__
from vgate.frontend.engines import STATUS, ModelState
from vgate.frontend.observe import count_files
from vgate.frontend.services import Services
from vgate.wire.control import StateName
from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats, Histogram

# Where a model has several engines, each of them has series of its own, with a label more.
_LABELS = "model", "replica"
# Of an engine that nobody wants now, which is no fault.
_AT_REST = "unloaded", "queued"

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
    (
        "vgate_prefill_time_seconds",
        "Time from the start of a sequence in the batch to its first token.",
        "prefill_s",
        REQUEST_S,
    ),
)
_COUNTERS = (
    ("preemptions", "Sequences that lost their KV cache and were computed again."),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache."),
    ("draft_tokens", "Tokens that were drafted (model.speculation)."),
    ("accepted_draft_tokens", "Drafted tokens that were right."),
)


class EngineCollector(Collector):
    """Collects what is known now of the served models and of this process's cache."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models = services.models
        self._cache = services.cache()

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        ready = self._models.not_ready_because() is None
        yield _gauge("vgate_up", "1 while this frontend serves HTTP.", 1)
        yield _gauge("vgate_ready", "1 while a request would be served.", ready)
        in_memory = len(count_files.in_memory_because())
        text = "Files of this frontend's counts that are in memory only, as on a full disk."
        yield _gauge("vgate_counts_in_memory", text, in_memory)
        yield from self._engines()
        yield from self._gpus()
        yield from self._instance()
        yield _gauge("vgate_cache_entries", "Answers in the result cache.", self._cache.entries)
        yield _gauge("vgate_cache_bytes", "Size of the result cache.", self._cache.size_bytes)

    def _instance(self) -> Iterator[Metric]:
        python = ".".join(map(str, sys.version_info[:3]))
        about = {"version": __version__, "backend": self._services.backend, "python": python}
        build = GaugeMetricFamily("vgate_build_info", "1, with what runs.", labels=list(about))
        build.add_metric(list(about.values()), 1)
        yield build
        text = "Resident memory of each process; an engine's with its own processes'."
        memory = GaugeMetricFamily("vgate_process_memory_bytes", text, labels=["process"])
        for name, size_bytes in self._services.memory().items():
            memory.add_metric([name], size_bytes)
        yield memory

    def _gpus(self) -> Iterator[Metric]:
        used, total = (
            GaugeMetricFamily(f"vgate_gpu_memory_{what}_bytes", text, labels=["gpu"])
            for what, text in (
                ("used", "GPU memory that is in use, by whomever."),
                ("total", "GPU memory."),
            )
        )
        gpus = {gpu.number: gpu for model in self._models.states() for gpu in model.status.gpus}
        for number, gpu in gpus.items():
            used.add_metric([str(number)], gpu.used_bytes)
            total.add_metric([str(number)], gpu.total_bytes)
        yield used
        yield total

    def _engines(self) -> Iterator[Metric]:
        names = (
            ("vgate_engine_ready", "1 while the model's engine serves, or is not loaded."),
            ("vgate_running_requests", "Sequences in the engine's batch."),
            ("vgate_waiting_requests", "Requests in the engine's queue."),
            ("vgate_kv_cache_usage_ratio", "Share of the KV cache in use."),
        )
        models = self._models.states()
        several = any(len(model.replicas) > 1 for model in models)
        labels = _LABELS if several else _LABELS[:1]
        gauges = [GaugeMetricFamily(name, text, labels=labels) for name, text in names]
        restarts = CounterMetricFamily(
            "vgate_engine_restarts", "Times that the engine was started again.", labels=labels
        )
        text = "How often the engine was made smaller because it ran out of memory."
        reduced = GaugeMetricFamily("vgate_engine_memory_reductions", text, labels=labels)
        stats = []
        for model in models:
            for replica in model.replicas:
                of, status = [model.name, str(replica.replica)][: len(labels)], replica.status
                one = len(model.replicas) == 1 or replica.engine.state in _AT_REST
                serves = model.ready if one else replica.serves
                values = (serves, status.running, status.waiting, status.kv_cache_usage)
                for gauge, value in zip(gauges, values, strict=True):
                    gauge.add_metric(of, value)
                restarts.add_metric(of, replica.engine.restarts)
                if status.stats is not None:
                    stats.append((of, status.stats))
                    reduced.add_metric(of, status.stats.memory_reductions)
        yield from gauges
        yield restarts
        yield reduced
        if several:
            yield _states(models)
        yield from _on_demand([model for model in models if model.load is not None])
        yield from _histograms(labels, stats)
        yield from _counters(labels, stats)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _states(models: Sequence[ModelState]) -> Metric:
    text = "1 for the state that the engine is in, as the launcher says."
    family = GaugeMetricFamily("vgate_engine_state", text, labels=[*_LABELS, "state"])
    for model in models:
        for replica in model.replicas:
            for state in get_args(StateName):
                of = [model.name, str(replica.replica), state]
                family.add_metric(of, state == replica.engine.state)
    return family


def _on_demand(models: Sequence[ModelState]) -> Iterator[Metric]:
    """Yield the families of models that may be unloaded."""
    if not models:
        return
    text = "1 for the state that the model is in: loaded, loading, queued and so on."
    state = GaugeMetricFamily("vgate_model_state", text, labels=["model", "state"])
    loads, unloads = (
        CounterMetricFamily(f"vgate_model_{what}", text, labels=["model"])
        for what, text in (
            ("loads", "Times that the model was loaded as it was wanted."),
            ("unloads", "Times that it was unloaded to make room, when idle, or by an operator."),
        )
    )
    for model in models:
        for status in dict.fromkeys(STATUS.values()):
            state.add_metric([model.name, status], STATUS[model.engine.state] == status)
        loads.add_metric([model.name], model.engine.loads)
        unloads.add_metric([model.name], model.engine.unloads)
    yield state
    yield loads
    yield unloads


def _histograms(
    labels: Sequence[str], stats: Sequence[tuple[list[str], EngineStats]]
) -> Iterator[Metric]:
    for name, text, field, bounds in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=labels)
        for of, of_engine in stats:
            histogram: Histogram = getattr(of_engine, field)
            family.add_metric(of, cumulative(histogram, bounds), histogram.total)
        yield family


def cumulative(histogram: Histogram, bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets: each counts everything up to its bound."""
    names = (*map(floatToGoString, bounds), "+Inf")
    return list(zip(names, map(float, accumulate(histogram.counts)), strict=True))


def _counters(
    labels: Sequence[str], stats: Sequence[tuple[list[str], EngineStats]]
) -> Iterator[Metric]:
    for field, text in _COUNTERS:
        family = CounterMetricFamily(f"vgate_{field}", text, labels=labels)
        for of, of_engine in stats:
            family.add_metric(of, getattr(of_engine, field))
        yield family
