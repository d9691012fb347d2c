"""What a soak takes for growth."""

import os
from types import SimpleNamespace

import pytest

from bench.soak import BOUNDS, Recorder, Series, table

MINUTES = [60.0 * minute for minute in range(61)]


def series(values, unit="MiB"):
    return Series("engine 1 USS", unit, MINUTES, [float(value) for value in values])


@pytest.mark.parametrize(
    "values",
    [
        [min(minute, 29) for minute in range(61)],
        [50 + 4 * (minute % 2) for minute in range(61)],
        [60 - minute for minute in range(61)],
        [50] * 45 + [58] + [50] * 15,
    ],
    ids=["first half only", "noise", "shrinks", "one peak"],
)
def test_what_does_not_grow(values):
    assert not series(values).grows


def test_what_grows_in_the_last_half_is_marked():
    grows = series([50 + minute / 10 for minute in range(61)])
    assert grows.growth == pytest.approx(3.0)
    assert grows.half == 53.0
    assert grows.grows
    assert table([grows]).endswith("GROWS")
    assert not series([50 + minute / 20 for minute in range(61)]).grows


def test_what_is_only_shown_never_grows():
    assert not series(range(61), "lines (shown)").grows


def test_this_process_is_read(tmp_path):
    (tmp_path / "run").mkdir()
    recorder = Recorder(SimpleNamespace(pid=os.getpid(), disk=tmp_path, lines=3))
    recorder.read()
    with (tmp_path / "run" / "left").open("wb") as left:
        left.write(bytes(1024 * 1024))
        recorder.read()
    read = {(one.name, one.unit): one.values for one in recorder.series}
    assert {unit for _, unit in read} >= BOUNDS.keys()
    assert read["run", "files"] == [0, 1]
    assert read["run", "MiB"] == [0, 1]
    before, after = read[f"? {os.getpid()}", "descriptors"]
    assert after == before + 1
