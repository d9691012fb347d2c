"""Models whose engines sleep when they make room, without any process."""

import msgspec
import pytest

from tests.launcher.engines.test_fleet import LIMITS
from tests.launcher.engines.test_swaps import Swapped
from vgate.config import Config
from vgate.config.model import AdditionalModel, Model, Residency
from vgate.config.section import MIB
from vgate.fit.gpu import GIB, Card
from vgate.launcher.residency.memory import carried_over, with_memory
from vgate.wire.control import Drain, EngineAsleep, EngineBeat, Wake

# One sleeps, and keeps 16 MiB.
TOTAL = 20 * MIB
SLEEPS = Drain(600.0, sleeps=True)


class Sleeping(Swapped):
    def sleep(self, number):
        self.hear(number, EngineAsleep)
        return self.advance(0)

    def turn(self, number, before):
        """Load a model in the place of another one, which sleeps if it is asked to."""
        self.want(f"m{number}")
        self.advance(10)
        peer, order = self.sent.pop()
        assert peer == b"%d" % before
        if order.sleeps:
            self.sleep(before)
        else:
            self.end(before)
        self.advance(0)
        self.ready(number)
        self.want(None)
        self.advance(0)


def configured(**residency):
    return Config(
        model=Model(model_id="m0", load="on_demand", memory_bytes=3 * MIB),
        models=[
            AdditionalModel(
                model_id=f"m{n}", task="generate", load="on_demand", memory_bytes=3 * MIB
            )
            for n in (1, 2)
        ],
        residency=Residency(memory_bytes=TOTAL, min_loaded_s=5, **residency),
        supervision=LIMITS,
    )


@pytest.fixture
def played(tmp_path):
    played = Sleeping(str(tmp_path), configured(unload="sleep"), [])
    played.want("m0")
    played.advance()
    played.ready(0)
    played.want(None)
    played.advance(0)
    return played


def test_a_model_that_makes_room_sleeps_and_is_woken(played):
    process = played.engines[0].pid
    played.want("m1")
    played.advance(10)
    assert played.sent.pop() == (b"0", SLEEPS)
    assert played.states == {0: "draining", 1: "queued", 2: "unloaded"}
    assert played.sleep(0) == [0, 1]
    assert played.states == {0: "unloaded", 1: "starting", 2: "unloaded"}
    played.ready(1)
    played.want(None)
    played.advance(0)
    played.want("m0")
    played.advance(10)
    assert played.sent.pop() == (b"1", SLEEPS)
    played.sleep(1)
    assert played.sent.pop() == (b"0", Wake())
    assert played.states == {0: "starting", 1: "unloaded", 2: "unloaded"}
    played.ready(0)
    played.advance(0)
    assert played.states[0] == "ready"
    assert played.engines[0].pid == process


def test_only_so_many_sleep(played):
    played.turn(1, 0)
    stopped = []
    played.engines[0].terminate = lambda: stopped.append(0)
    played.want("m2")
    played.advance(10)
    # The first one's place is free from the next time on.
    assert stopped == [0]
    assert played.sent.pop() == (b"1", Drain(600.0))
    played.end(0)
    assert played.end(1) == [2]
    played.ready(2)
    played.want(None)
    played.advance(0)
    played.want("m0")
    played.advance(10)
    assert played.sent.pop() == (b"2", SLEEPS)


def test_one_that_sleeps_in_the_queue_keeps_its_place(played):
    played.turn(1, 0)
    # m2 is first, so m0 sleeps on; with m1 there would be two.
    played.want("m2", oldest_s=2)
    played.want("m0", oldest_s=1, frontend=101)
    played.advance(10)
    assert played.sent.pop() == (b"1", Drain(600.0))
    assert played.engines[0].asleep


def test_one_without_a_process_does_not_sleep(played):
    played.die(0)
    played.want("m1", oldest_s=100)
    assert played.advance(0) == []  # it would restart in a moment
    played.advance(0)
    assert played.states == {0: "unloaded", 1: "starting", 2: "unloaded"}
    assert played.order_model("m0", "unload") == "m0 is not loaded"


def test_an_operators_drain_ends_with_the_load(played):
    assert played.order(0, "drain", force=True) == ""
    played.turn(1, 0)
    played.turn(0, 1)
    assert played.states[0] == "ready"


def test_one_is_woken_after_another_one_has_loaded_on_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("vgate.launcher.engines.fleet.sharing", lambda _: {0, 1, 2})
    config = configured(unload="sleep")
    room = msgspec.structs.replace(config.residency, memory_bytes=22 * MIB)
    played = Sleeping(str(tmp_path), msgspec.structs.replace(config, residency=room), [])
    for number in (0, 1):
        played.want(f"m{number}", frontend=number)
        played.advance()
        played.ready(number)
        played.want(None, frontend=number)
        played.advance(10)
    played.want("m2")  # in the place of m0
    played.advance(10)
    played.sleep(0)
    assert played.order_model("m1", "unload") == ""
    played.end(1)
    played.want("m0", frontend=101)
    played.sent.clear()
    played.advance()
    assert (played.states[0], played.sent) == ("starting", [])
    played.ready(2)
    played.advance()
    assert played.sent == [(b"0", Wake())]


def test_one_that_dies_before_it_is_woken_is_started(played, monkeypatch):
    played.turn(1, 0)
    monkeypatch.setattr(played.fleet, "_must_wait", lambda *_: True)
    played.want("m0")
    played.advance(10)
    played.end(1)
    assert (played.states[0], played.engines[0].asleep) == ("starting", True)
    played.die(0)
    played.advance(0)
    monkeypatch.undo()
    assert played.advance() == [0]


def test_a_resident_model_that_was_unloaded_in_its_sleep_stays_out(tmp_path):
    config = configured(unload="sleep")
    model = msgspec.structs.replace(config.model, load="resident")
    played = Sleeping(str(tmp_path), msgspec.structs.replace(config, model=model), [])
    played.advance()
    played.ready(0)
    played.advance(10)
    played.turn(1, 0)
    played.engines[0]._process.terminate = lambda: None
    assert played.order_model("m0", "unload") == ""
    played.end(0)
    assert played.order_model("m1", "unload") == ""
    assert played.end(1) == []
    assert played.advance(100) == []


def test_a_sleeper_that_does_not_end_is_killed(played):
    played.turn(1, 0)
    signals = []
    played.engines[0].terminate = lambda: signals.append("term")
    played.engines[0].kill = lambda _cause=None: signals.append("kill")
    assert played.order_model("m0", "unload") == ""
    played.fleet.kill_hung(played.now + 6, LIMITS)
    assert signals == ["term", "kill"]


def test_what_is_idle_gives_everything_back(tmp_path):
    config = configured(unload="sleep")
    model = msgspec.structs.replace(config.model, idle_ttl_s=30)
    played = Sleeping(str(tmp_path), msgspec.structs.replace(config, model=model), [])
    played.want("m0")
    played.advance()
    played.ready(0)
    played.want(None)
    played.advance(0)
    played.advance(31)
    assert played.sent.pop() == (b"0", Drain(600.0))
    played.end(0)
    # So does one that sleeps and isn't asked for.
    played.want("m0")
    played.advance()
    played.ready(0)
    played.want(None)
    played.advance(0)
    played.turn(1, 0)
    stopped = []
    played.engines[0].terminate = lambda: stopped.append(0)
    played.advance(29)
    assert not stopped
    played.advance(2)
    assert stopped == [0]


def test_an_operator_ends_a_sleep(played):
    played.turn(1, 0)
    stopped = []
    played.engines[0].terminate = lambda: stopped.append(0)
    assert played.order_model("m0", "unload") == ""
    assert stopped == [0]
    played.end(0)
    assert "not loaded" in played.order_model("m0", "unload")


def test_one_that_dies_asleep_is_started_again(played):
    played.turn(1, 0)
    assert played.end(0, -9) == [1]
    played.want("m0")
    played.advance(10)
    played.sleep(1)
    assert played.advance(0) == [0, 1]
    assert (b"0", Wake()) not in played.sent


def test_one_that_can_not_sleep_ends(played):
    played.want("m1")
    played.advance(10)
    assert played.sent.pop() == (b"0", SLEEPS)
    assert played.end(0) == [1]


def test_sleep_is_no_hang_and_silence_is(played):
    killed = []
    played.turn(1, 0)
    played.engines[0].kill = killed.append
    for _ in range(40):
        played.now += 100
        for number in (0, 1):
            played.hear(number, EngineBeat)
        played.fleet.kill_hung(played.now, LIMITS)
    assert not killed
    played.now += 10_000
    played.fleet.kill_hung(played.now, LIMITS)
    assert "hung" in killed[0]


@pytest.mark.parametrize(
    ("unload", "backend", "vram", "found"),
    [
        ("auto", "vllm", 24, "sleep"),
        ("auto", "vllm", 8, "stop"),
        ("sleep", "vllm", 8, "sleep"),
        ("stop", "vllm", 24, "stop"),
        ("auto", "vllm", None, "stop"),
        ("sleep", "vllm", None, "stop"),
        ("auto", "dry_run", None, "stop"),
        ("sleep", "dry_run", None, "sleep"),
    ],
)
def test_the_card_decides(monkeypatch, unload, backend, vram, found):
    card = Card(vram * GIB, 1.0) if vram else None
    monkeypatch.setattr("vgate.launcher.residency.memory._card", lambda _: card)
    config = with_memory(configured(unload=unload), backend)
    assert config.residency.unload == found
    asks = found == "sleep" and backend == "vllm"
    assert all(m.engine_args.get("enable_sleep_mode", False) == asks for m in config.all_models)
    # A reload changes nothing of it.
    assert carried_over(config, configured()) == config
