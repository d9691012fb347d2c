"""Counts survive full disks, and files that a kill left unreadable."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

from tests.small_disk import fill, small_disk
from vgate.frontend.observe import count_files
from vgate.frontend.observe.gathered_counts import Gatherer

ROOT = str(Path(__file__).parents[3])

# A store into a hole of a mapped file kills its process, so this is one of its own.
WORKER = """
import os, sys
from prometheus_client import CollectorRegistry, Counter, values
from vgate.frontend.observe import count_files
from vgate.frontend.observe.gathered_counts import Gatherer

count_files.use()
values.ValueClass = Gatherer(1).value
things = Counter("things", "x", ("kind",), registry=CollectorRegistry())

def total():
    registry = CollectorRegistry()
    collector = count_files.AllWorkers(registry)
    return sum(s.value for f in collector.collect() for s in f.samples)

for number in range(int(sys.argv[1])):
    things.labels(str(number)).inc()
for number in range(10):
    things.labels(str(number)).inc()
print(total(), len(count_files.in_memory_because()))
os.unlink(sys.argv[2])
count_files.save()
things.labels("0").inc()
count_files._own.clear()  # read as another worker does
print(total(), len(count_files.in_memory_because()))
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "MmapedDict", MmapedDict)
    monkeypatch.setattr(multiprocess, "MmapedDict", MmapedDict)
    monkeypatch.setattr(count_files, "_own", {})
    monkeypatch.setattr(count_files, "_reported", set())
    count_files.use()
    return tmp_path


def count(monkeypatch, worker: int, amount: int) -> None:
    """Count in a process of this number, which is killed then."""
    monkeypatch.setattr(values, "ValueClass", Gatherer(worker).value)
    Counter("things", "x", registry=CollectorRegistry()).inc(amount)
    while count_files._own:
        count_files._own.popitem()[1].close()


def total() -> float:
    registry = CollectorRegistry()
    count_files.AllWorkers(registry)
    return registry.get_sample_value("things_total") or 0.0


@pytest.mark.parametrize(("keys", "full_from"), [(2000, "growing"), (100, "the start")])
def test_a_full_disk_does_not_kill_the_worker(tmp_path, keys, full_from):
    with small_disk(tmp_path / "disk", 200) as disk:
        metrics = disk / "metrics"
        metrics.mkdir()
        filler = disk / "filler"
        filler.write_bytes(b"x" * 100 * 1024)
        if full_from == "the start":
            fill(disk)
        worker = subprocess.run(
            [sys.executable, "-c", WORKER, str(keys), str(filler)],
            env={"PROMETHEUS_MULTIPROC_DIR": str(metrics), "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert worker.returncode == 0, worker.stderr
        full, freed = worker.stdout.splitlines()
        assert full == f"{keys + 10}.0 1"
        # 2000 keys need more than the disk has even then.
        assert freed == f"{keys + 11}.0 0" or keys == 2000
        assert worker.stderr.count("counts are kept in memory") == 1


def test_a_successor_goes_on_with_the_counts(directory, monkeypatch):
    for _ in range(3):
        count(monkeypatch, worker=1, amount=2)
    count(monkeypatch, worker=2, amount=1)
    assert total() == 7
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\1\0", b"\xff" * 100, b"\x40\0\0\0" + bytes(60), b"\x18\0\0\0\0\0\0\0\4\0\0\0{}[]"],
)
def test_an_unreadable_file_is_skipped_and_then_removed(directory, monkeypatch, content):
    count(monkeypatch, worker=1, amount=5)
    (directory / "counter_2.db").write_bytes(content)
    assert total() == 5
    count(monkeypatch, worker=2, amount=1)
    assert total() == 6
