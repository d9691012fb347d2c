"""The policy of models on demand against offline schedules, over recorded requests."""

import pytest

from bench.swaps import (
    Machine,
    Request,
    Simulation,
    clairvoyant_loads,
    least_loads,
    random_requests,
)
from vgate.config.model import Residency

AT_ONCE = Residency(min_loaded_s=0)


def test_it_loads_hardly_more_often_than_a_schedule_that_knows_the_future():
    machine = Machine(models=6, room=2)
    requests = random_requests(2000, machine.models, 10 / 3, seed=1)
    simulation = Simulation(machine, requests)
    simulation.run()
    loads, longest_s = len(simulation.loads), max(request.wait_s for request in requests)
    assert all(request.end > 0 for request in requests)
    assert simulation.most_held == machine.room
    # Nobody waits for much longer than allowed: for the answers that run, and the load itself.
    assert longest_s <= machine.settings.max_wait_s + machine.load_s + machine.answer_s + 1
    assert loads <= 1.1 * clairvoyant_loads(machine, requests, longest_s)
    # A load for each change of model would be 1,656.
    assert 30 < loads < 60


def requests_for(models):
    return [Request(model, float(at)) for at, model in enumerate(models)]


@pytest.mark.parametrize(
    ("models", "longest_s", "known", "least"),
    [
        ([0, 0, 0], 100, 1, 0),
        ([0, 1, 0, 1, 0, 1], 100, 2, 1),
        # Nobody may wait for longer than a load takes.
        ([0, 1, 0, 1, 0, 1], 0.5, 6, 3),
    ],
)
def test_the_figures_of_short_lists_are_right(models, longest_s, known, least):
    machine = Machine(models=2, room=1, load_s=0.5, settings=AT_ONCE)
    requests = requests_for(models)
    assert clairvoyant_loads(machine, requests, longest_s) == known
    assert least_loads(machine, requests, longest_s) == least


def test_no_bound_is_above_what_is_possible():
    for seed in range(3):
        machine = Machine(models=4, room=2, settings=AT_ONCE)
        requests = random_requests(200, 4, 1.0, seed)
        for longest_s in (5.0, 20.0, 60.0):
            known = clairvoyant_loads(machine, requests, longest_s)
            assert least_loads(machine, requests, longest_s) <= known


@pytest.mark.parametrize("min_loaded_s", [0.0, 10.0])
@pytest.mark.parametrize(("rate", "room"), [(0.5, 1), (1.0, 2), (4.0, 2), (4.0, 3)])
def test_the_schedule_is_no_worse_than_the_policy_under_the_same_rules(rate, room, min_loaded_s):
    machine = Machine(models=5, room=room, settings=Residency(min_loaded_s=min_loaded_s))
    requests = random_requests(400, machine.models, rate, seed=3)
    simulation = Simulation(machine, requests)
    simulation.run()
    longest_s = max(request.wait_s for request in requests)
    assert clairvoyant_loads(machine, requests, longest_s) <= len(simulation.loads)


@pytest.mark.parametrize(("min_loaded_s", "known"), [(0, 3), (10, 4)])
def test_the_schedule_keeps_a_model_for_as_long_as_the_policy_must(min_loaded_s, known):
    """1 has to be loaded so early that 2 is in time after it, and 0 is asked for after that."""
    settings = Residency(min_loaded_s=min_loaded_s)
    machine = Machine(models=3, room=1, load_s=0.5, settings=settings)
    asked = [Request(0, float(at)) for at in range(61)] + [Request(1, 1.0), Request(2, 1.0)]
    assert clairvoyant_loads(machine, asked, 60.5) == known


@pytest.mark.parametrize(("loaded", "loads"), [((), 2), ((0,), 1), ((0, 1), 0)])
def test_what_is_loaded_at_first_is_not_loaded(loaded, loads):
    machine = Machine(models=2, room=2, loaded=loaded)
    requests = requests_for([0, 1, 0, 1])
    assert clairvoyant_loads(machine, requests, 60.0) == loads
    simulation = Simulation(machine, requests)
    simulation.run()
    assert len(simulation.loads) == loads
