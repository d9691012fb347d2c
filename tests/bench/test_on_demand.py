"""What a recorded run of models on demand is compared with."""

import pytest

from bench.on_demand.load import Load
from bench.on_demand.plan import Move, Outcome, Plan
from bench.swaps import Request

ROOM_FOR_ONE = Plan(models=2, room=1, min_loaded_s=0, max_wait_s=10)


def recorded(slow_s: float = 1.0) -> Outcome:
    """Return a run in which room is made for 1 after 10 s, and for 0 after 8 s."""
    outcome = Outcome(ROOM_FOR_ONE)
    outcome.loads = [Move(0, 0.0, 1.0), Move(1, 11.5, slow_s), Move(0, 30.5, 1.0)]
    outcome.unloads = [Move(0, 11.0, 0.5, 1), Move(1, 30.0, 0.5, 0)]
    outcome.trace = [
        Request(0, 0.0, end=1.2),
        Request(1, 1.0, end=12.0 + slow_s),
        Request(0, 2.0, end=2.2),
        # It was sent before the engine said that it takes no more.
        Request(0, 11.1, end=11.4),
        Request(0, 22.0, end=32.0),
    ]
    return outcome


def test_a_request_waits_for_room_until_another_model_is_told_to_go() -> None:
    assert recorded().to_room_s == 10.0


def test_a_slow_load_gives_no_schedule_more_time() -> None:
    """It made a request wait for longer, but room for it would be made no later."""
    assert recorded(15.0).to_room_s == recorded().to_room_s
    assert recorded(15.0).longest_s > recorded().longest_s


def test_the_schedule_begins_with_what_was_loaded() -> None:
    outcome = recorded()
    known, least = outcome.bounds()
    assert (known, least <= known) == (3, True)
    outcome.loaded = (0,)
    assert outcome.bounds()[0] == known - 1
    assert outcome.replayed()[0] == 2


class Logged:
    """Stands for an instance of which only the log counts."""

    target = key = None

    def __init__(self, *lines: tuple[float, str]) -> None:
        self.log = list(lines)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setattr("bench.on_demand.load.Pool", lambda *_, **__: None)
    instance = Logged(
        (95.0, 'model loaded model=model-0 reason="a request waits for it" seconds=2.0'),
        (99.0, 'model loaded model=model-1 reason="a request waits for it" seconds=2.0'),
        (
            99.5,
            'model unloaded model=model-0 reason="model-1 is asked for" sleeps=False seconds=0.5',
        ),
        (110.0, 'model loaded model=model-0 reason="3 requests wait for it" seconds=4.0'),
        (
            112.0,
            'model unloaded model=model-1 reason="model-0 is asked for" sleeps=False seconds=0.5',
        ),
        (113.0, 'model unloaded model=model-0 reason="it has been idle for 5 s" seconds=1.0'),
    )
    found = Load(ROOM_FOR_ONE, instance, [Request(0, 0.0)])  # type: ignore[arg-type]
    found._began = 100.0
    return found


def test_moves_are_read_from_the_log(load: Load) -> None:
    assert load._moves("loaded") == [Move(0, 6.0, 4.0)]
    assert load._moves("unloaded") == [Move(1, 11.5, 0.5, 0), Move(0, 12.0, 1.0)]


def test_what_is_loaded_is_read_from_the_log(load: Load) -> None:
    found = []
    for count in range(len(load._instance.log) + 1):
        short = Logged(*load._instance.log[:count])
        found.append(Load(ROOM_FOR_ONE, short, [Request(0, 0.0)])._loaded())  # type: ignore[arg-type]
    assert found == [(), (0,), (0, 1), (1,), (0, 1), (0,), ()]
