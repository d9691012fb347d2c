"""Several replicas under one launcher, without any process: who starts, who is given up."""

import io
from itertools import count

import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Supervision
from vgate.launcher.child import GaveUpError
from vgate.launcher.engines.fleet import Fleet
from vgate.launcher.terminal.console import Console
from vgate.wire.control import (
    Cordon,
    Drain,
    EngineBeat,
    EngineFailed,
    EngineOrder,
    EnginePhase,
    EngineReady,
)

LIMITS = Supervision(max_restarts=1)


class Process:
    """Stands for a `subprocess.Popen`."""

    pids = count(1)

    def __init__(self) -> None:
        self.pid = next(self.pids)
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status


class Played:
    """A fleet whose processes do what a test says; `now` is its clock."""

    def __init__(self, run_dir: str, config: Config, gpus: list[str]) -> None:
        engines = local_engines(config, run_dir, gpus)
        runtime = Runtime(config=config, backend="dry_run", run_dir=run_dir, engines=engines)
        self.now = 0.0
        self.sent: list[tuple[bytes, object]] = []
        self.states: dict[int, str] = {}
        self.shown = io.StringIO()
        self.fleet = Fleet(runtime, Console(runtime, self.shown), self._send, self._tell)
        self.engines = list(self.fleet)
        for engine in self.engines:
            engine.start = lambda now, engine=engine: self._start(engine, now)
            engine.kill = lambda _cause=None: None

    def _start(self, engine, now):
        engine._process = Process()
        engine._reset(now)
        engine.restarts += 1

    def _send(self, peer, message):
        self.sent.append((peer, message))
        return True

    def _tell(self, state):
        self.states[state.engine] = state.state

    def advance(self, seconds: float = 1.0) -> list[int]:
        """Let time pass; return which engines run."""
        self.now += seconds
        self.fleet.advance(self.now, LIMITS)
        return self.running

    @property
    def running(self) -> list[int]:
        return [engine.number for engine in self.engines if engine.pid]

    def hear(self, number, kind, *fields):
        self.fleet.hear(b"%d" % number, kind(self.engines[number].pid, *fields), self.now)

    def ready(self, *numbers):
        for number in numbers:
            self.hear(number, EngineReady, f"model {number}")

    def die(self, number, status=-9):
        self.engines[number]._process.status = status

    def order(self, number, action, *, force=False):
        return self.fleet.order(EngineOrder(7, number, action, force), self.now)


@pytest.fixture
def play(tmp_path):
    def play(gpus=(), **model):
        others = [AdditionalModel(model_id="other", task="embed")] if model.pop("two", 0) else []
        main = Model(model_id="m", **model)
        config = Config(model=main, additional_models=others, supervision=LIMITS)
        return Played(str(tmp_path), config, list(gpus))

    return play


class TestStart:
    def test_the_first_replica_starts_alone_and_then_the_rest_together(self, play):
        played = play(replicas=3)
        assert played.advance() == [0]
        assert played.advance() == [0]
        played.ready(0)
        assert played.fleet.serves
        assert played.advance() == [0, 1, 2]

    def test_the_others_do_not_wait_for_one_that_dies(self, play):
        played = play(replicas=3)
        played.advance()
        played.die(0)
        assert played.advance(0) == [1, 2]
        assert played.advance() == [0, 1, 2]

    def test_nor_for_one_that_loads_and_says_nothing(self, play):
        played = play(replicas=2)
        played.advance()
        played.advance(299)
        played.hear(0, EnginePhase, "loading weights")
        assert played.advance(299) == [0]
        assert played.advance() == [0, 1]

    def test_models_do_not_wait_for_each_other(self, play):
        played = play(replicas=2, two=True)
        assert played.advance() == [0, 2]
        played.ready(0)
        assert not played.fleet.serves
        played.ready(2)
        assert played.fleet.serves

    def test_those_on_one_gpu_load_one_after_the_other(self, play):
        played = play(["0", "1"], replicas=4, devices=[0, 1, 0, 0])
        played.advance()
        played.ready(0)
        assert played.advance() == [0, 1, 2]
        played.ready(2)
        assert played.advance() == [0, 1, 2, 3]

    def test_models_that_share_a_gpu_load_one_after_the_other(self, play, monkeypatch):
        monkeypatch.setattr("vgate.launcher.engines.fleet.sharing", lambda _: {0, 1})
        played = play(two=True)
        assert played.advance() == [0]
        played.hear(0, EnginePhase, "loading weights")
        assert played.advance() == [0]
        played.ready(0)
        assert played.advance() == [0, 1]

    def test_none_waits_for_the_download_of_another_model(self, play, monkeypatch):
        monkeypatch.setattr("vgate.launcher.engines.fleet.sharing", lambda _: {0, 1})
        played = play(two=True)
        played.advance()
        played.hear(0, EnginePhase, "downloading the model", 1, 10)
        assert played.advance() == [0, 1]


class TestGivingUp:
    def test_a_replica_is_given_up_alone_and_tried_again(self, play):
        played = play(replicas=2)
        played.advance()
        played.ready(0)
        played.fleet.announced = True
        played.advance()
        for _ in range(2):
            played.die(1)
            played.advance(0)
            played.advance()
        assert played.running == [0]
        assert played.states == {0: "ready", 1: "failed"}
        told = "The engine-1 died 2 times: killed by SIGKILL. V-Gate goes on without it."
        assert told in played.shown.getvalue()
        assert played.advance(297) == [0]
        assert played.advance(2) == [0, 1]
        # One more try is enough to see it.
        played.die(1)
        assert played.advance(0) == [0]
        assert played.states[1] == "failed"
        assert played.shown.getvalue().count("goes on without") == 1
        played.advance(300)
        played.ready(1)
        assert played.states[1] == "ready"

    def test_the_last_one_of_a_model_ends_the_instance(self, play):
        played = play(replicas=2)
        played.advance()
        played.hear(0, EngineFailed, "no such model", True)
        played.die(0, 78)
        played.advance()
        played.hear(1, EngineFailed, "no such model", True)
        played.die(1, 78)
        with pytest.raises(GaveUpError, match="the engine-1 can't start: no such model"):
            played.advance()

    def test_a_start_that_is_tried_smaller_is_told(self, play):
        played = play(replicas=1)
        played.advance()
        played.hear(0, EngineFailed, "the GPU is full. It starts again smaller.", False, True)
        said = "The engine did not start: the GPU is full. It starts again smaller."
        assert said in played.shown.getvalue()
        played.die(0, 70)
        played.advance()
        played.advance()
        played.hear(0, EngineFailed, "a bug", False)
        assert "a bug" not in played.shown.getvalue()

    def test_replicas_of_other_models_are_no_help(self, play):
        played = play(replicas=1, two=True)
        played.advance()
        played.ready(0, 1)
        played.hear(1, EngineFailed, "broken", True)
        played.die(1, 78)
        with pytest.raises(GaveUpError, match="the engine-1 can't start: broken"):
            played.advance()


@pytest.fixture
def three(play):
    """Three replicas that serve."""
    played = play(replicas=3)
    played.advance()
    played.ready(0)
    played.advance()
    played.ready(1, 2)
    return played


class TestOrders:
    def test_a_drained_engine_stays_loaded_until_it_is_resumed(self, three):
        assert three.order(1, "drain") == ""
        assert three.sent.pop() == (b"1", Cordon(True))
        assert three.states[1] == "draining"
        assert three.engines[1].state.drained
        assert three.advance() == [0, 1, 2]
        assert three.order(1, "resume") == ""
        assert three.sent.pop() == (b"1", Cordon(False))
        assert three.states[1] == "ready"
        assert not three.engines[1].state.drained

    def test_a_drained_engine_that_dies_stays_out(self, three):
        three.order(1, "drain")
        three.die(1)
        three.advance(0)
        assert three.advance(1000) == [0, 2]
        assert three.states[1] == "draining"
        assert three.engines[1].state.drained
        three.order(1, "resume")
        assert three.advance() == [0, 1, 2]
        three.ready(1)
        assert three.states[1] == "ready"

    def test_one_that_is_drained_while_it_loads_takes_nothing(self, three):
        three.die(1)
        three.advance(0)
        three.advance()
        three.order(1, "drain")
        three.ready(1)
        assert three.sent.pop() == (b"1", Cordon(True))
        assert three.states[1] == "draining"

    def test_a_restart_lets_requests_finish(self, three):
        assert three.order(2, "restart") == ""
        assert three.sent.pop() == (b"2", Drain(600.0))
        assert three.states[2] == "draining"
        three.die(2, 0)
        assert three.advance(0) == [0, 1, 2]
        assert three.states[2] == "restarting"

    def test_a_clean_end_is_no_death(self, three):
        """As after SIGTERM to the engine's process, which an operator may send again and again."""
        for _ in range(10):
            three.hear(0, EngineBeat, None, True)
            assert three.states[0] == "draining"
            three.die(0, 0)
            assert three.advance(0) == [0, 1, 2]
            three.ready(0)
        assert not three.engines[0].given_up

    def test_one_that_ends_before_it_is_ready_has_died(self, play):
        played = play(replicas=1)
        played.advance()
        for _ in range(2):
            played.die(0, 0)
            if _ == 0:
                played.advance()
                played.advance()
        with pytest.raises(GaveUpError, match="died 2 times: exit status 0"):
            played.advance()

    def test_the_last_one_is_drained_only_by_force(self, three):
        three.order(0, "drain")
        three.order(1, "drain")
        for action in ("drain", "restart"):
            assert "engine 2 is the only one that serves m" in three.order(2, action)
        assert three.order(2, "drain", force=True) == ""

    def test_what_cannot_be_ordered(self, three):
        assert three.order(3, "drain") == "there is no engine 3; there are engines 0 to 2"
        three.die(1)
        three.advance(0)
        assert three.order(1, "restart") == "engine 1 does not run now: it is restarting"

    def test_resuming_tries_a_replica_that_was_given_up(self, three):
        for _ in range(2):
            three.die(1)
            three.advance(0)
            three.advance()
        assert three.states[1] == "failed"
        three.order(1, "resume")
        assert three.advance(0) == [0, 1, 2]
