"""The gaps of streams, from one note for each delivery."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.engines.output import gaps as module
from vgate.frontend.engines.output.gaps import Gaps, StreamGaps

GAPS_S = st.floats(0.0003, 20)


@given(st.lists(GAPS_S, min_size=1, max_size=60), st.data())
def test_each_stream_has_its_own(between, data):
    gaps, now, times = Gaps(), 100.0, []
    first = data.draw(st.integers(0, len(between) - 1))
    last = data.draw(st.integers(first, len(between) - 1))
    stream = StreamGaps()
    for number, gap_s in enumerate(between):
        now += gap_s
        times.append(now)
        gaps.delivered(now)
        if number == first:
            gaps.begin(stream)
            gaps.begin(stream)
        if number == last:
            gaps.end(stream)
            gaps.end(stream)
    own = [b - a for a, b in zip(times[first:last], times[first + 1 : last + 1], strict=True)]
    assert stream.total == len(own)
    if not own:
        assert (stream.median_s, stream.longest_s) == (None, 0.0)
        return
    assert stream.longest_s == max(own)
    median = statistics.median_low(own)
    assert median / 1.13 <= stream.median_s <= median * 1.13


def test_a_pause_between_two_engines_is_a_gap():
    first, second, stream = Gaps(), Gaps(), StreamGaps()
    for now in (1.0, 1.01, 1.02):
        first.delivered(now)
        first.begin(stream)
    first.interrupt(stream)
    second.delivered(3.0)
    second.delivered(9.02)
    second.begin(stream)
    second.delivered(9.03)
    second.end(stream)
    assert stream.total == 3
    assert stream.longest_s == 8.0
    assert stream.median_s == pytest.approx(0.01, rel=0.13)


def test_a_stream_that_got_nothing_has_none():
    gaps, stream = Gaps(), StreamGaps()
    gaps.end(stream)
    gaps.interrupt(stream)
    gaps.begin(None)
    gaps.end(None)
    gaps.delivered(5.0)
    gaps.begin(stream)
    assert stream.median_s is None
    assert stream.longest_s == 0.0


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_KEPT", 10)
    gaps, now, stream = Gaps(), 0.0, StreamGaps()
    for number in range(1000):
        now += 1 / (number + 1)
        gaps.delivered(now)
        gaps.begin(stream)
    gaps.end(stream)
    assert len(gaps._longest) <= 10
    assert 0 < stream.longest_s <= 0.5
