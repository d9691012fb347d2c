"""A replica that fails requests gets few until it has proved itself."""

from vgate.frontend.routing.breaker import Breaker


def test_some_failures_among_many_requests_are_no_reason():
    breaker = Breaker()
    for _ in range(100):
        breaker.failed(0.0)
        for _ in range(3):
            breaker.succeeded()
    assert breaker.takes(1000, 0.0)


def test_failures_in_a_row_lead_to_a_pause_then_a_trial():
    breaker = Breaker()
    for _ in range(3):
        assert breaker.takes(50, 0.0)
        breaker.failed(0.0)
    assert not breaker.takes(0, 0.4)
    assert breaker.takes(0, 0.5)
    assert not breaker.takes(1, 0.5)
    # Pauses grow with each failure of a trial, up to half a minute.
    pauses_s = []
    now = 1.0
    for _ in range(10):
        breaker.failed(now)
        pauses_s.append(next(s for s in range(1, 100) if breaker.takes(0, now + s)))
        now += 100
    assert pauses_s == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]


def test_each_first_token_doubles_what_it_gets():
    breaker = Breaker()
    breaker.died()
    limits = []
    while not breaker.takes(10_000, 0.0):
        limits.append(next(n for n in range(100) if not breaker.takes(n, 0.0)))
        breaker.succeeded()
    assert limits == [1, 2, 4, 8, 16]
    # A single failure is none then.
    breaker.failed(0.0)
    assert breaker.takes(10_000, 0.0)


def test_the_next_engine_does_not_wait_for_the_pause_of_one_that_died():
    breaker = Breaker()
    for _ in range(3):
        breaker.failed(1.0)
    assert not breaker.takes(0, 1.0)
    breaker.died()
    assert breaker.takes(0, 1.0)
    assert not breaker.takes(1, 1.0)


def test_many_that_fail_together_are_one_reason():
    breaker = Breaker()
    for _ in range(100):
        breaker.failed(5.0)
    assert not breaker.takes(0, 5.4)
    assert breaker.takes(0, 5.5)
