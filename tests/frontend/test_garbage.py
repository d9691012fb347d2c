"""When the garbage collector searches a frontend's objects."""

import gc

import pytest

from tests.frontend.test_listening import Loop
from vgate.frontend.garbage import Garbage

# The most that the collector may look at while requests are served; it takes a few milliseconds.
MOST_OBJECTS = 70_000
LARGE_BODIES_BYTES = 64 << 20
SOME_HOURS_S = 10_000


class Worker:
    """Garbage of a loop that stands still, with what its requests hold and what was searched."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.held_bytes = 0
        self.collected_at: list[float] = []
        Garbage(self.loop, lambda: self.held_bytes, self._collect).begin()

    def _collect(self) -> None:
        self.collected_at.append(self.loop.now)

    def serve(self) -> None:
        """Make as much garbage as is worth a search of everything."""
        for _ in range(100):
            gc.collect(1)

    def pass_until(self, now: float) -> None:
        while self.loop.now < now:
            self.loop.go_on()


@pytest.fixture
def worker():
    threshold = gc.get_threshold()
    yield Worker()
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("worker")
def test_only_a_few_new_objects_are_searched_at_a_time():
    searched = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations = range(info["generation"] + 1)
            searched.append(sum(len(gc.get_objects(generation)) for generation in generations))

    gc.callbacks.append(note)
    try:
        document = [[number] for number in range(1_000_000)]
    finally:
        gc.callbacks.remove(note)
    assert searched
    assert max(searched) < MOST_OBJECTS < len(document)


def test_everything_is_searched_when_there_was_much_garbage(worker):
    worker.pass_until(SOME_HOURS_S)
    assert not worker.collected_at
    for _ in range(3):
        worker.collected_at.clear()
        worker.serve()
        worker.pass_until(worker.loop.now + SOME_HOURS_S)
        assert len(worker.collected_at) == 1


def test_a_search_of_everything_waits_until_large_bodies_are_gone(worker):
    worker.held_bytes = LARGE_BODIES_BYTES
    worker.serve()
    worker.pass_until(60)
    assert not worker.collected_at
    worker.held_bytes = 0
    worker.pass_until(65)
    assert len(worker.collected_at) == 1


def test_a_search_of_everything_waits_for_no_endless_attack(worker):
    worker.held_bytes = LARGE_BODIES_BYTES
    worker.serve()
    worker.pass_until(SOME_HOURS_S)
    assert len(worker.collected_at) == 1
    assert worker.collected_at[0] > 60
