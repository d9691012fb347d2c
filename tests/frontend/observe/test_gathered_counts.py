"""TokenCounts of one turn: written together, asked for at any time."""

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.mmap_dict import MmapedDict

from vgate.frontend.observe.gathered_counts import Gatherer


@pytest.fixture
def gatherer(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    gatherer = Gatherer(1234)
    monkeypatch.setattr(values, "ValueClass", gatherer.value)
    return gatherer


def written(tmp_path):
    """What another process would read, by sample."""
    found = {}
    for path in tmp_path.glob("*_1234.db"):
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):
            _, name, labels, _ = json.loads(key)
            found[name, *labels.values()] = value
    return found


def test_counts_before_a_loop_runs_are_written_at_once(gatherer, tmp_path):
    Counter("things", "x", registry=CollectorRegistry()).inc(3)
    assert written(tmp_path) == {("things_total",): 3}


def test_those_of_a_turn_are_written_together(gatherer, tmp_path):
    calls = []
    gatherer.gather(calls.append)
    registry = CollectorRegistry()
    counter = Counter("things", "x", ("kind",), registry=registry)
    histogram = Histogram("seconds", "x", buckets=(1, 2), registry=registry)
    for _ in range(3):
        counter.labels("a").inc()
    counter.labels("b").inc(0)
    histogram.observe(0.5)
    histogram.observe(1.5)
    assert len(calls) == 1
    assert not any(written(tmp_path).values())
    # This process sees them all the same.
    assert registry.get_sample_value("things_total", {"kind": "a"}) == 3
    calls.pop()()
    assert written(tmp_path) == {
        ("things_total", "a"): 3,
        ("things_total", "b"): 0,
        ("seconds_sum",): 2,
        ("seconds_bucket", "1.0"): 1,
        ("seconds_bucket", "2.0"): 1,
        ("seconds_bucket", "+Inf"): 0,
    }
    counter.labels("a").inc(0.5)
    assert len(calls) == 1
    calls.pop()()
    assert written(tmp_path)["things_total", "a"] == 3.5
