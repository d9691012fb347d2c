"""V-Gate's figures under vLLM's names: `tests/engine/test_vllm_metrics.py` asks vLLM for them."""

from collections.abc import Iterable

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from vgate.frontend.apis.system.vllm_names import VLLMNames
from vgate.frontend.engines import ModelState, ReplicaState, ServedName
from vgate.wire.control import EngineState
from vgate.wire.messages import ModelInfo, Status
from vgate.wire.stats import NO_STATS, Histogram

INFO = ModelInfo(["m"], [], 4096, 8, 64_000, 0, "vllm", kv_block_tokens=16)
STATS = msgspec.structs.replace(
    NO_STATS,
    finished_stop=3,
    finished_length=1,
    prompt_tokens=Histogram([4, *[0] * 18], 4.0),
    generated_tokens=Histogram([0, 4, *[0] * 17], 8.0),
)


class FakeModels:
    """Models with the last heartbeats of their replicas, and adapters of the first."""

    def __init__(self, *statuses: Status | list[Status], adapters: Iterable[str] = ()) -> None:
        self._statuses = [one if isinstance(one, list) else [one] for one in statuses]
        self._adapters = adapters

    def names(self) -> list[ServedName]:
        alias = ServedName("alias", 0, "m", "m", "loaded", 1, is_alias=True)
        of_model = [ServedName("m", 0, "m", None, "loaded", 1), alias]
        return of_model + [ServedName(name, 0, "m", "m", "loaded", 1) for name in self._adapters]

    def states(self) -> list[ModelState]:
        state = EngineState("ready", "", 0.0)
        return [
            ModelState(
                name,
                (name,),
                "generate",
                not_ready_because=None,
                engine=state,
                status=statuses[0],
                replicas=[
                    ReplicaState(number, number, serves=True, engine=state, status=status)
                    for number, status in enumerate(statuses)
                ],
                info=INFO,
            )
            for name, statuses in zip("mn", self._statuses, strict=False)
        ]

    def not_ready_because(self) -> str | None:
        return None


class Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def shown(models: FakeModels, *families: Metric) -> dict[tuple[str, ...], float]:
    """Return each value by its sample's name and its labels' values, sorted by their names."""
    registry = CollectorRegistry()
    registry.register(Given(families))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in VLLMNames(registry, models).collect()
        for sample in family.samples
    }


def gauge(name: str, *samples: tuple[dict[str, str], float]) -> Metric:
    family = GaugeMetricFamily(name, "Text.", labels=list(samples[0][0]))
    for labels, value in samples:
        family.add_metric(list(labels.values()), value)
    return family


def test_a_model_without_counts_has_zeros():
    found = shown(FakeModels(Status(0, 0, 0.0)))
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert found[f"vllm:{name}", "0", "m"] == 0
    for name in ("prompt_tokens", "generation_tokens", "prefix_cache_hits", "num_preemptions"):
        assert found[f"vllm:{name}_total", "0", "m"] == 0
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert found[f"vllm:{name}_count", "0", "m"] == 0
        assert found[f"vllm:{name}_bucket", "0", "+Inf", "m"] == 0
    assert found["vllm:request_success_total", "0", "stop", "m"] == 0
    assert found["vllm:request_generation_tokens_bucket", "0", "500000.0", "m"] == 0


def test_counts_have_their_labels_and_stay_under_their_own_name():
    running = gauge("vgate_running_requests", ({"model": "m"}, 5), ({"model": "n"}, 0))
    ttft = HistogramMetricFamily("vgate_ttft_seconds", "Text.", labels=["model"])
    ttft.add_metric(["m"], [("0.5", 2), ("+Inf", 3)], 2.5)
    found = shown(FakeModels(Status(5, 0, 0.0), Status(0, 0, 0.0)), running, ttft)
    assert found["vgate_running_requests", "m"] == 5
    assert found["vllm:num_requests_running", "0", "m"] == 5
    assert found["vllm:num_requests_running", "0", "n"] == 0
    buckets = [
        found["vllm:time_to_first_token_seconds_bucket", "0", le, "m"] for le in ("0.5", "+Inf")
    ]
    assert buckets == [2, 3]
    assert found["vllm:time_to_first_token_seconds_sum", "0", "m"] == 2.5
    # The other model has none yet.
    assert found["vllm:time_to_first_token_seconds_count", "0", "n"] == 0


def test_a_replica_is_vllms_engine():
    running = gauge(
        "vgate_running_requests",
        ({"model": "m", "replica": "0"}, 5),
        ({"model": "m", "replica": "1"}, 7),
    )
    tokens = CounterMetricFamily("vgate_prompt_tokens", "Text.", labels=["model"])
    tokens.add_metric(["m"], 40)
    replicas = [Status(5, 0, 0.0, STATS), Status(7, 0, 0.0)]
    found = shown(FakeModels(replicas), running, tokens)
    assert found["vllm:num_requests_running", "0", "m"] == 5
    assert found["vllm:num_requests_running", "1", "m"] == 7
    assert found["vllm:num_requests_waiting", "1", "m"] == 0
    assert found["vllm:request_success_total", "0", "stop", "m"] == 3
    assert found["vllm:request_success_total", "1", "stop", "m"] == 0
    assert found["vllm:cache_config_info", "16", "1", "m", "4000"] == 1
    # Frontends don't count by replica.
    assert found["vllm:prompt_tokens_total", "all", "m"] == 40
    assert found["vllm:generation_tokens_total", "all", "m"] == 0
    assert ("vllm:prompt_tokens_total", "0", "m") not in found


def test_complete_sequences_are_counted_by_the_engine():
    found = shown(FakeModels(Status(0, 0, 0.0, STATS)))
    assert found["vllm:request_success_total", "0", "stop", "m"] == 3
    assert found["vllm:request_success_total", "0", "length", "m"] == 1
    assert found["vllm:request_prompt_tokens_sum", "0", "m"] == 4
    assert found["vllm:request_generation_tokens_bucket", "0", "1.0", "m"] == 0
    assert found["vllm:request_generation_tokens_bucket", "0", "2.0", "m"] == 4


def test_the_cache_is_described_in_blocks():
    found = shown(FakeModels(Status(0, 0, 0.0)))
    assert found["vllm:cache_config_info", "16", "0", "m", "4000"] == 1


def test_adapters_are_listed_where_there_are_some():
    found = shown(FakeModels(Status(0, 0, 0.0), adapters=["sql", "de"]))
    assert found["vllm:lora_requests_info", "2", "sql,de", ""] > 0
    assert not [name for name, *_ in shown(FakeModels(Status(0, 0, 0.0))) if "lora" in name]
