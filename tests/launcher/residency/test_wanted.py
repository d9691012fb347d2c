"""What several frontends want together."""

from math import inf

from vgate.launcher.residency.wanted import WantedModels
from vgate.wire.control import Demand, ModelDemand


def test_what_frontends_want_is_added_up():
    wanted = WantedModels(["m"])
    wanted.hear(ModelDemand(1, {"m": Demand(2, 1, 5.0, 4.0, ("a", "b")), "n": Demand(1)}), 10.0)
    wanted.hear(ModelDemand(2, {"m": Demand(1, 0, 7.0, 1.0, ("b", ""))}), 10.0)
    (both,) = wanted.together().values()
    assert (both.waiting, both.running, both.since, both.used_at) == (3, 1, 3.0, 10.0)
    assert both.keys == {"a", "b", ""}
    assert wanted.heard_at == inf
    wanted.see({2: 9.0, 3: 8.0})
    assert wanted.heard_at == 8.0
    assert wanted.together()["m"].keys == {"b", ""}
    wanted.hear(ModelDemand(2, {}), 11.0)
    assert wanted.together() == {}
