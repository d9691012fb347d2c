"""Examples of requests in the latency histograms."""

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from vgate.frontend.observe import exemplars
from vgate.wire.stats import REQUEST_S


def shown(*examples):
    histogram = Histogram("h_seconds", "Text.", ["model"], buckets=REQUEST_S, registry=None)
    for label, seconds, example in examples:
        exemplars.Latencies(histogram, label).observe(seconds, example)

    class Collector:
        def collect(self):
            return exemplars.with_exemplars(histogram.collect())

    registry = CollectorRegistry()
    registry.register(Collector())
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.labels["model"], sample.labels["le"]): sample.exemplar
        for sample in family.samples
        if sample.exemplar
    }


def test_each_bucket_has_its_latest_request(monkeypatch):
    monkeypatch.setattr(exemplars, "_latest", {})
    found = shown(
        ("m", 0.02, ("req-1", None)),
        ("m", 0.021, ("req-2", "f" * 32)),
        ("m", 700.0, ("req-3", None)),
        ("n", 0.02, ("req-4", None)),
    )
    assert {place: (one.labels, one.value) for place, one in found.items()} == {
        ("m", "0.025"): ({"trace_id": "f" * 32, "request_id": "req-2"}, 0.021),
        ("m", "+Inf"): ({"request_id": "req-3"}, 700.0),
        ("n", "0.025"): ({"request_id": "req-4"}, 0.02),
    }


def test_a_time_counts_as_prometheus_client_counts_it():
    def told(*times_s, observe):
        histogram = Histogram("h_seconds", "Text.", ["model"], buckets=(0.5, 1.0), registry=None)
        for seconds in times_s:
            observe(histogram, seconds)
        (family,) = histogram.collect()
        return [(s.name, s.labels, s.value) for s in family.samples if "_created" not in s.name]

    times_s = 0.0, 0.1, 0.5, 0.75, 1.0, 1.25
    assert told(
        *times_s, observe=lambda h, seconds: exemplars.Latencies(h, "m").observe(seconds)
    ) == told(*times_s, observe=lambda h, seconds: h.labels("m").observe(seconds))


def test_an_id_that_is_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(exemplars, "_latest", {})
    found = shown(("m", 0.02, ("x" * 128, "f" * 32)), ("m", 0.2, ("x" * 118, None)))
    assert found["m", "0.025"].labels == {"trace_id": "f" * 32}
    assert found["m", "0.25"].labels == {"request_id": "x" * 118}


@pytest.mark.parametrize("name", ['a"b\\', "#}{", 'a="1"} 3', "a#b", "{"])
def test_an_id_with_marks_of_the_format_is_left_out(monkeypatch, name):
    monkeypatch.setattr(exemplars, "_latest", {})
    found = shown(("m", 0.02, (name, "f" * 32)), ("m", 0.2, ("team/a.b:1+2", None)))
    assert found["m", "0.025"].labels == {"trace_id": "f" * 32}
    assert found["m", "0.25"].labels == {"request_id": "team/a.b:1+2"}
