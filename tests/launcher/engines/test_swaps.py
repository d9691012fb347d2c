"""Models on demand under one launcher, without any process: engines that come and go."""

import pytest

from tests.launcher.engines.test_fleet import LIMITS, Played
from vgate.config import Config
from vgate.config.model import AdditionalModel, Model, Residency
from vgate.config.section import MIB
from vgate.launcher.child import GaveUpError
from vgate.wire.control import Demand, Drain, EngineFailed, EngineOrder, ModelDemand, ModelOrder

FRONTEND = 100


class Swapped(Played):
    """A fleet of models, of which one fits; model 0 is resident."""

    def want(self, model, waiting=1, *, frontend=FRONTEND, **demand):
        demands = {model: Demand(waiting, **demand)} if model else {}
        self.fleet.swaps.wanted.hear(ModelDemand(frontend, demands), self.now)

    def end(self, number, status=0):
        self.die(number, status)
        return self.advance(0)

    def load(self, number):
        """Load a model in the place of the one that runs."""
        self.want(f"m{number}")
        self.advance()
        (before,) = self.running
        self.end(before)
        self.advance(0)
        assert self.advance(0) == [number]
        self.ready(number)
        self.want(None)
        self.advance(0)

    def order_model(self, model, action, *, force=False):
        return self.fleet.order(ModelOrder(1, model, action, force), self.now)


@pytest.fixture
def played(tmp_path):
    config = Config(
        model=Model(model_id="m0", memory_bytes=MIB),
        models=[
            AdditionalModel(model_id=f"m{n}", task="generate", load="on_demand", memory_bytes=MIB)
            for n in (1, 2)
        ],
        residency=Residency(memory_bytes=MIB, min_loaded_s=5, max_wait_s=60),
        supervision=LIMITS,
    )
    played = Swapped(str(tmp_path), config, [])
    assert not played.fleet.serves
    assert played.advance() == [0]
    played.ready(0)
    played.advance()
    assert played.fleet.serves
    played.fleet.announced = True
    played.advance(60)
    return played


def test_unloaded_models_keep_nobody_waiting(played):
    assert [engine.state.state for engine in played.engines] == ["ready", "unloaded", "unloaded"]
    assert played.advance(1000) == [0]


def test_a_request_loads_its_model_once_the_other_has_ended(played):
    played.want("m1", 2)
    assert played.advance() == [0]
    assert played.sent.pop() == (b"0", Drain(600.0))
    assert played.states == {0: "draining", 1: "queued", 2: "unloaded"}
    played.advance(50)
    assert played.running == [0]
    assert played.end(0) == [1]
    assert played.states == {0: "unloaded", 1: "starting", 2: "unloaded"}
    played.ready(1)
    played.want(None)
    played.advance(0)
    assert played.states[1] == "ready"
    shown = played.shown.getvalue()
    assert "Loading m1: unloads m0 first." in shown
    assert "m1 is loaded (" in shown
    assert played.advance(1000) == [1]


def test_those_that_wait_know_how_many_are_loaded_first(played):
    for frontend, model in ((1, "m1"), (2, "m2")):
        played.want(model, frontend=frontend)
        played.advance()
    assert [engine.state.ahead for engine in played.engines] == [0, 0, 1]


def test_what_a_dead_frontend_wanted_is_forgotten(played):
    played.want("m0", 0, running=1, frontend=1)
    played.want("m1", frontend=2)
    played.advance()
    assert played.states[1] == "queued"
    played.fleet.swaps.wanted.see({1: 0.0})
    played.advance()
    assert played.states[1] == "unloaded"
    played.advance(100)
    assert played.states[0] == "ready"


def test_a_running_answer_is_let_finish_and_then_its_model_makes_room(played):
    played.want("m0", 0, running=1, frontend=1)
    played.want("m1", frontend=2)
    played.advance(59)
    assert played.states[0] == "ready"
    played.want("m0", 0, running=1, frontend=1)
    played.advance(1)
    assert played.sent.pop() == (b"0", Drain(600.0))


def test_an_engine_that_dies_while_it_is_unloaded_is_unloaded(played):
    played.want("m1")
    played.advance()
    assert played.end(0, -9) == [1]
    assert played.states[0] == "unloaded"
    for _ in range(5):  # and that is no reason to give it up
        played.ready(1)
        played.want(None)
        played.advance()
        played.want("m0")
        played.advance(60)
        assert played.end(1, -9) == [0]
        played.ready(0)
        played.want(None)
        played.advance()
        played.want("m1")
        played.advance(60)
        assert played.end(0, -9) == [1]


def test_a_loaded_engine_that_dies_starts_again_and_keeps_its_memory(played):
    played.die(0)
    played.want("m1")
    played.advance(0)
    assert played.states == {0: "restarting", 1: "queued", 2: "unloaded"}
    assert played.advance() == [0]
    assert played.advance(30) == [0]
    played.ready(0)
    assert played.states[0] == "ready"


def test_it_goes_on_without_a_model_that_cannot_be_loaded(played):
    played.want("m1")
    played.advance()
    played.end(0)
    played.hear(1, EngineFailed, "no such file", True)
    # Its place is free for others, at first for the resident model.
    assert played.end(1, 78) == [0]
    assert played.states[1] == "failed"
    assert "no such file" in played.engines[1].state.detail
    assert "m1 can't be loaded: no such file. V-Gate goes on without it." in played.shown.getvalue()
    played.ready(0)
    played.advance()
    played.advance(298)
    assert played.states[1] == "failed"
    played.want(None)
    played.advance(1)
    assert played.states[1] == "unloaded"
    played.want("m1")
    played.advance()
    assert played.end(0) == [1]


def test_an_order_tries_a_failed_model_at_once(played):
    played.want("m1")
    played.advance()
    played.end(0)
    played.hear(1, EngineFailed, "no such file", True)
    played.end(1, 78)
    played.ready(0)
    played.want(None)
    played.advance()
    assert played.order_model("m1", "load") == ""
    played.advance(5)
    assert played.end(0) == [1]


def test_one_that_dies_too_often_while_it_loads_is_given_up_alone(played):
    played.want("m1")
    played.advance()
    played.end(0)
    for _ in range(2):
        assert 1 in played.running
        played.die(1)
        played.advance(0)
        played.advance(3)
    assert played.states[1] == "failed"


def test_a_resident_that_cannot_be_loaded_at_the_start_ends_the_instance(tmp_path):
    config = Config(
        model=Model(model_id="m0", memory_bytes=MIB),
        models=[
            AdditionalModel(model_id="m1", task="generate", load="on_demand", memory_bytes=MIB)
        ],
        residency=Residency(memory_bytes=MIB),
        supervision=LIMITS,
    )
    played = Swapped(str(tmp_path), config, [])
    played.advance()
    played.hear(0, EngineFailed, "broken", True)
    played.die(0, 78)
    with pytest.raises(GaveUpError, match="broken"):
        played.advance()


def test_only_on_demand_models_keep_no_start_waiting(tmp_path):
    config = Config(model=Model(model_id="m0", load="on_demand", memory_bytes=MIB))
    played = Swapped(str(tmp_path), config, [])
    assert played.fleet.serves
    assert played.advance() == []


class TestOrders:
    def test_load_and_unload(self, played):
        assert played.order_model("m1", "load") == ""
        played.advance()
        assert played.end(0) == [1]
        played.ready(1)
        played.advance()
        assert played.order_model("m1", "load") == "m1 is loaded already"
        assert played.order_model("m1", "unload") == ""
        assert played.sent.pop() == (b"1", Drain(600.0))
        assert played.order_model("m1", "unload") == "m1 is being unloaded already"
        # Nobody waits, so the resident model has its place again.
        assert played.end(1) == [0]
        assert played.order_model("m2", "unload") == "m2 is not loaded"
        assert "there is no model m9" in played.order_model("m9", "load")

    def test_an_unloaded_resident_stays_out_until_it_is_asked_for(self, played):
        played.order_model("m0", "unload")
        assert played.end(0) == []
        assert played.advance(1000) == []
        played.want("m0")
        assert played.advance() == [0]

    def test_a_pinned_model_needs_force(self, tmp_path):
        config = Config(
            model=Model(model_id="m0", memory_bytes=MIB, load="pinned"),
            residency=Residency(memory_bytes=MIB),
            supervision=LIMITS,
        )
        played = Swapped(str(tmp_path), config, [])
        played.advance()
        played.ready(0)
        played.advance()
        assert "m0 is pinned: `--force`" in played.order_model("m0", "unload")
        assert played.order_model("m0", "unload", force=True) == ""
        assert played.end(0) == []

    def test_a_drained_model_that_is_unloaded_is_told_from_one_that_stays(self, played):
        """What waits for it is served once it is loaded again, without an operator."""
        assert played.order(0, "drain", force=True) == ""
        assert (played.states[0], played.engines[0].state.drained) == ("draining", True)
        played.want("m1")
        played.advance()
        assert (played.states[0], played.engines[0].state.drained) == ("draining", False)

    def test_an_engine_that_is_not_loaded_takes_no_orders(self, played):
        for action in ("drain", "resume", "restart"):
            problem = played.order(1, action, force=True)
            assert "`vgate models load m1` loads its model" in problem

    def test_where_all_models_stay_there_is_nothing_to_order(self, tmp_path):
        played = Swapped(str(tmp_path), Config(model=Model(model_id="m0")), [])
        assert "all of them stay loaded" in played.order_model("m0", "unload")


def test_one_that_loads_is_ended_if_it_is_not_wanted_any_more(played):
    """An engine that loads reads nothing, so it gets SIGTERM; and SIGKILL if that does not help."""
    signals = []
    played.want("m1")
    played.advance()
    played.end(0)
    engine = played.engines[1]
    engine.terminate = lambda: signals.append("term")
    engine.kill = lambda _cause=None: signals.append("kill")
    assert played.order_model("m1", "unload") == ""
    played.fleet.kill_hung(played.now + 4, LIMITS)
    assert signals == ["term"]
    played.fleet.kill_hung(played.now + 6, LIMITS)
    assert signals == ["term", "kill"]
    played.ready(1)  # it was about to say so
    assert played.states[1] == "draining"


def test_one_that_was_ended_while_it_loaded_was_not_killed_for_its_memory(played, tmp_path):
    """What a killed engine leaves makes the next one smaller, if memory was out meanwhile."""
    left = tmp_path / "engines" / "1"
    left.parent.mkdir()
    played.want("m1")
    played.advance()
    played.end(0)
    left.write_text("0 ")
    played.engines[1]._process.terminate = lambda: None
    assert played.order_model("m1", "unload") == ""
    assert not left.exists()


def test_replicas_are_loaded_and_unloaded_together(tmp_path):
    config = Config(
        model=Model(model_id="m0", replicas=2, load="on_demand", memory_bytes=MIB),
        models=[
            AdditionalModel(model_id="m1", task="generate", load="on_demand", memory_bytes=MIB)
        ],
        residency=Residency(memory_bytes=2 * MIB, min_loaded_s=0),
        supervision=LIMITS,
    )
    played = Swapped(str(tmp_path), config, [])
    played.want("m0")
    played.advance()
    played.ready(0)
    played.advance()
    played.ready(1)
    played.want("m1")
    assert played.advance() == [0, 1]
    assert [peer for peer, _ in played.sent] == [b"0", b"1"]
    assert played.end(0) == [1]
    assert played.end(1) == [2]


def test_an_operators_restart_of_an_engine_keeps_its_memory(played):
    assert played.fleet.order(EngineOrder(1, 0, "restart", True), played.now) == ""
    played.want("m1")
    assert played.end(0) == [0]
    assert played.states[1] == "queued"
