"""V-Gate's metrics again, under the names of vLLM's own server.

Inference gateways, autoscalers and dashboards that were made for vLLM read these. Names, types and
labels are vLLM's, the numbers and the bounds of the buckets are V-Gate's. A family of vLLM that is
missing here is one that V-Gate doesn't count.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from vgate.frontend.apis.system.engine_metrics import cumulative
from vgate.frontend.engines import Models, ModelState
from vgate.wire.stats import LENGTHS, NO_STATS, REQUEST_S, STEP_S, Histogram


class _Names(NamedTuple):
    """vLLM's names for a family of V-Gate, some of earlier versions; `bounds` of its buckets."""

    names: tuple[str, ...]
    kind: str = "gauge"
    bounds: Sequence[float] = ()


_NAMES = {
    "vgate_running_requests": _Names(("num_requests_running",)),
    "vgate_waiting_requests": _Names(("num_requests_waiting",)),
    "vgate_kv_cache_usage_ratio": _Names(("kv_cache_usage_perc", "gpu_cache_usage_perc")),
    "vgate_preemptions": _Names(("num_preemptions",), "counter"),
    "vgate_prefix_cache_queries": _Names(
        ("prefix_cache_queries", "gpu_prefix_cache_queries"), "counter"
    ),
    "vgate_prefix_cache_hits": _Names(
        ("prefix_cache_hits", "gpu_prefix_cache_hits", "prompt_tokens_cached"), "counter"
    ),
    "vgate_draft_tokens": _Names(("spec_decode_num_draft_tokens",), "counter"),
    "vgate_accepted_draft_tokens": _Names(("spec_decode_num_accepted_tokens",), "counter"),
    "vgate_prompt_tokens": _Names(("prompt_tokens",), "counter"),
    "vgate_tokens_generated": _Names(("generation_tokens",), "counter"),
    "vgate_ttft_seconds": _Names(("time_to_first_token_seconds",), "histogram", REQUEST_S),
    "vgate_generation_latency_seconds": _Names(
        ("e2e_request_latency_seconds",), "histogram", REQUEST_S
    ),
    "vgate_tpot_seconds": _Names(("request_time_per_output_token_seconds",), "histogram", STEP_S),
    "vgate_inter_token_latency_seconds": _Names(
        ("inter_token_latency_seconds", "time_per_output_token_seconds"), "histogram", STEP_S
    ),
    "vgate_queue_time_seconds": _Names(("request_queue_time_seconds",), "histogram", REQUEST_S),
    "vgate_prefill_time_seconds": _Names(("request_prefill_time_seconds",), "histogram", REQUEST_S),
}
# What only these names have: vLLM's name, what it is, the field of `EngineStats`, its bounds.
_OF_FINISHED = (
    (
        "request_decode_time_seconds",
        "Time from the first token of a sequence to its last.",
        "decode_s",
        REQUEST_S,
    ),
    ("request_prompt_tokens", "Tokens of the prompt of each sequence.", "prompt_tokens", LENGTHS),
    (
        "request_generation_tokens",
        "Tokens generated for each sequence.",
        "generated_tokens",
        LENGTHS,
    ),
    # Each choice of a request is a sequence, so the longest of a request's is not known.
    (
        "request_max_num_generation_tokens",
        "The same as vllm:request_generation_tokens.",
        "generated_tokens",
        LENGTHS,
    ),
)
_LABELS = {"model": "model_name", "replica": "engine"}
_ENGINE = ("model_name", "engine")
# What frontends count is of all replicas together.
_OF_FRONTENDS = {
    "vgate_prompt_tokens",
    "vgate_tokens_generated",
    "vgate_ttft_seconds",
    "vgate_generation_latency_seconds",
    "vgate_tpot_seconds",
}
_ALL = "all"


class VLLMNames(Collector):
    """Collects what a registry has, and then the same under vLLM's names.

    Args:
        registry: It has V-Gate's families.
        models: The served models.
    """

    def __init__(self, registry: CollectorRegistry, models: Models) -> None:
        self._registry = registry
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        families = {family.name: family for family in self._registry.collect()}
        yield from families.values()
        states = self._models.states()
        for ours, found in _NAMES.items():
            made = [
                Metric(f"vllm:{name}", f"The same as {ours}.", found.kind) for name in found.names
            ]
            engines = {state.name: _engines(state, ours) for state in states}
            for family in made:
                _fill(family, found, families.get(ours), engines)
            yield from made
        yield from _finished(states)
        yield _cache_config(states)
        yield from _lora_requests(self._models, states)


def _engines(state: ModelState, family: str = "") -> list[str]:
    """Return the labels that a family has for a model's engines."""
    if family in _OF_FRONTENDS and len(state.replicas) > 1:
        return [_ALL]
    return [str(replica.replica) for replica in state.replicas]


def _fill(
    made: Metric, found: _Names, family: Metric | None, engines: dict[str, list[str]]
) -> None:
    """Give a family the samples of one of V-Gate; an engine that this doesn't have is at zero."""
    present = set()
    for sample in family.samples if family is not None else ():
        labels = {_LABELS.get(label, label): value for label, value in sample.labels.items()}
        model = labels["model_name"]
        labels.setdefault("engine", engines.get(model, ["0"])[0])
        present.add((model, labels["engine"]))
        suffix = sample.name[len(family.name) :] if family is not None else ""
        made.add_sample(made.name + suffix, labels, sample.value)
    for model, labelled in engines.items():
        for engine in labelled:
            if (model, engine) not in present:
                _add_zeros(made, found, {"model_name": model, "engine": engine})


def _add_zeros(family: Metric, found: _Names, labels: dict[str, str]) -> None:
    if found.kind != "histogram":
        suffix = "_total" if found.kind == "counter" else ""
        family.add_sample(family.name + suffix, labels, 0.0)
        return
    for bound in (*map(floatToGoString, found.bounds), "+Inf"):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, 0.0)
    for what in ("count", "sum"):
        family.add_sample(f"{family.name}_{what}", labels, 0.0)


def _finished(states: Sequence[ModelState]) -> Iterator[Metric]:
    """Yield what engines know of sequences that were complete."""
    text = "Sequences that were complete, by their finish reason."
    success = CounterMetricFamily(
        "vllm:request_success", text, labels=[*_ENGINE, "finished_reason"]
    )
    families = [HistogramMetricFamily(f"vllm:{n}", t, labels=_ENGINE) for n, t, *_ in _OF_FINISHED]
    for state in states:
        for replica in state.replicas:
            labels, stats = [state.name, str(replica.replica)], replica.status.stats or NO_STATS
            success.add_metric([*labels, "stop"], stats.finished_stop)
            success.add_metric([*labels, "length"], stats.finished_length)
            for family, (_, _, field, bounds) in zip(families, _OF_FINISHED, strict=True):
                histogram: Histogram = getattr(stats, field)
                family.add_metric(labels, cumulative(histogram, bounds), histogram.total)
    yield success
    yield from families


def _cache_config(states: Iterable[ModelState]) -> Metric:
    """Return the size of each KV cache; vLLM has many more labels, and not the model's name."""
    labels = (*_ENGINE, "block_size", "num_gpu_blocks")
    text = "1, with the size of the KV cache in blocks and of a block in tokens."
    family = GaugeMetricFamily("vllm:cache_config_info", text, labels=labels)
    for state in states:
        if (info := state.info) is not None:
            blocks = info.kv_cache_tokens // info.kv_block_tokens
            for engine in _engines(state):
                family.add_metric([state.name, engine, str(info.kv_block_tokens), str(blocks)], 1)
    return family


def _lora_requests(models: Models, states: Iterable[ModelState]) -> Iterator[Metric]:
    """Yield which adapters a request is served with at once: all, because all are loaded."""
    labels = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
    family = GaugeMetricFamily(
        "vllm:lora_requests_info", "The time, with the adapters that are loaded.", labels=labels
    )
    for state in states:
        names = [found for found in models.names() if not found.is_alias]
        adapters = [found.name for found in names if found.parent == state.name]
        if adapters:
            family.add_metric([str(len(adapters)), ",".join(adapters), ""], time.time())
    if family.samples:
        yield family
