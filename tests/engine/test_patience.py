"""A step's limit follows from earlier steps, unless something new runs."""

import pytest

from tests.engine.fakes import Bench, generate
from vgate.engine.patience import Patience
from vgate.engine.request import Request
from vgate.wire.parameters import DEFAULTS, GenerateOptions


def request(key: str = "1", tokens: int = 10, **options) -> Request:
    return Request(key, [1] * tokens, DEFAULTS, GenerateOptions(**options))


def learned(step_s: float = 0.03) -> Patience:
    """Return the patience of an engine that has run a plain request."""
    patience = Patience()
    assert patience.started(request(), 1)
    patience.stepped({}, step_s, 0.0)
    return patience


def test_nothing_is_known_before_the_first_step():
    assert Patience().seconds is None
    patience = Patience()
    patience.started(request(), 1)
    assert patience.seconds is None


@pytest.mark.parametrize(("step_s", "limit_s"), [(0.001, 20), (0.4, 20), (1.0, 50), (10.0, 500)])
def test_it_is_a_multiple_of_the_longest_step_with_a_floor(step_s, limit_s):
    patience = learned(step_s)
    patience.stepped({}, step_s / 10, 1.0)
    assert patience.seconds == pytest.approx(limit_s)


def test_a_long_step_is_forgotten_after_minutes():
    patience = learned(10.0)
    for minute in range(12):
        patience.stepped({}, 0.01, minute * 60.0)
    assert patience.seconds == 20


@pytest.mark.parametrize(
    "other",
    [
        request("2", tokens=100),
        request("2", logprobs=1),
        request("2", adapter="tales"),
        request("2", bad_words=[[1]]),
    ],
)
def test_what_is_new_has_all_the_time(other):
    patience = learned()
    assert not patience.started(request("3"), 1)
    assert patience.seconds == 20
    assert patience.started(other, 1)
    # Its prompt takes several steps.
    patience.stepped({"2": other}, 0.1, 1.0)
    assert patience.seconds is None
    other.generated_tokens = 1
    patience.stepped({"2": other}, 0.1, 2.0)
    assert patience.seconds == 20
    assert not patience.started(other, 1)
    other.generated_tokens = 0


def test_a_larger_batch_is_new():
    assert learned().started(request("2"), 8)


def test_what_was_aborted_before_its_first_token_stays_new():
    patience = learned()
    other = request("2", logprobs=1)
    assert patience.started(other, 1)
    patience.removed(other)
    assert patience.seconds == 20
    assert patience.started(other, 1)


def test_the_launcher_is_told_before_the_step_that_may_be_slow():
    bench = Bench()
    bench.welcome(b"a")
    bench.say(b"a", generate(1, max_tokens=50))
    beats = len(bench.beats)
    step, heard = bench.backend.step, []
    bench.backend.step = lambda: heard.append(len(bench.beats)) or step()
    bench.turn()
    assert heard == [beats + 1]
    bench.turn()
    assert bench.loop.patience.seconds == 20
