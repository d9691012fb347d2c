"""What a worker says of the requests that wait for a model."""

from vgate.frontend.engines.residency import Residence, WaitingRoom, situation
from vgate.wire.control import Demand, EngineState


def test_the_launcher_is_told_whose_requests_wait():
    residence = Residence(WaitingRoom(99), lambda: 1.0)
    for number, key in enumerate(["bob", "alice", "bob", ""]):
        residence.enter(number, 1, key)
    demand = residence.demand(["carol", "alice"], 0)
    assert (demand.waiting, demand.keys) == (6, ("bob", "alice", "", "carol"))
    residence.leave(1, 1)
    assert residence.demand([], 0).keys == ("bob", "")


def test_only_so_many_keys_are_told_those_that_have_waited_longest_first():
    residence = Residence(WaitingRoom(99), lambda: 1.0)
    keys = [f"key-{number}" for number in range(2 * Demand.MOST_KEYS)]
    for key in keys:
        residence.enter(key, 1, key)
    assert residence.demand([], 0).keys == tuple(keys[: Demand.MOST_KEYS])


def test_who_waits_for_a_drained_engine_is_not_told_that_its_model_is_loaded_again():
    unloaded = situation("m", EngineState("draining", "x", 0.0), 0)
    assert unloaded == "the model m is being unloaded, and is loaded again then"
    drained = situation("m", EngineState("draining", "x", 0.0, drained=True), 0)
    assert drained == "the model m is kept from taking requests by an operator"
