"""Restarts: back-off, the window, and giving up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.launcher.child import RestartPolicy


def test_delays_double():
    policy = RestartPolicy(max_restarts=5, window_s=300)
    assert [policy.next_delay_s(0.0) for _ in range(5)] == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_too_many_deaths_give_up():
    policy = RestartPolicy(max_restarts=2, window_s=300)
    assert [policy.next_delay_s(t) is None for t in (0.0, 1.0, 2.0)] == [False, False, True]


def test_no_restart_at_all():
    assert RestartPolicy(max_restarts=0, window_s=300).next_delay_s(0.0) is None


def test_deaths_outside_the_window_do_not_count():
    policy = RestartPolicy(max_restarts=2, window_s=10)
    assert [policy.next_delay_s(t) for t in (0.0, 5.0, 10.0, 15.0, 20.0)] == [
        0.25,
        0.5,
        0.5,
        0.5,
        0.5,
    ]


def test_delays_have_a_limit():
    policy = RestartPolicy(max_restarts=100, window_s=1e9)
    assert [policy.next_delay_s(0.0) for _ in range(100)][-1] == 30.0


@given(
    st.integers(0, 5),
    st.floats(1, 100),
    st.lists(st.floats(0, 50), max_size=30),
)
def test_it_gives_up_exactly_if_there_were_too_many_deaths_in_the_window(most, window_s, gaps):
    policy, now, deaths = RestartPolicy(most, window_s), 0.0, []
    for gap in gaps:
        now += gap
        deaths.append(now)
        recent = [death for death in deaths if death > now - window_s]
        delay_s = policy.next_delay_s(now)
        assert (delay_s is None) == (len(recent) > most)
        assert delay_s is None or delay_s == pytest.approx(min(30, 0.25 * 2 ** (len(recent) - 1)))
