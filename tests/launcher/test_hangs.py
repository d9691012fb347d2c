"""Which silence counts as a hang."""

import io
from types import SimpleNamespace

import pytest

from tests.launcher.sockets import SOCKETS
from vgate.config import Config, EngineSpec, Runtime
from vgate.config.schema import Server, Supervision
from vgate.launcher.child import JudgesClock
from vgate.launcher.supervisor import Supervisor
from vgate.launcher.terminal.console import Console
from vgate.wire.control import EnginePhase


class Seconds:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_goes_on_while_it_is_asked():
    seconds = Seconds()
    clock = JudgesClock(seconds)
    began = clock()
    for _ in range(100):
        seconds.now += 0.1
        clock()
    assert clock() - began == pytest.approx(10)


def test_the_clock_stands_still_while_its_process_does():
    seconds = Seconds()
    clock = JudgesClock(seconds)
    began = clock()
    seconds.now += 3600
    assert clock() - began < 1


@pytest.fixture
def judge(tmp_path_factory):
    """Return a function that returns why a silent engine and a silent frontend are killed."""
    run_dir = str(tmp_path_factory.mktemp("s"))
    config = Config()
    spec = EngineSpec(model=config.model.name, address="ipc://a")
    runtime = Runtime(config=config, backend="dry_run", run_dir=run_dir, engines=[spec])
    supervisor = Supervisor(runtime, Console(runtime), SOCKETS)
    (engine,) = supervisor._engines
    killed = []
    for child in (engine, *supervisor._frontends):
        child.kill = lambda cause=None: killed.append(cause)

    def judge(
        silent_s: float, patience_s: float | None, *, ready: bool = True, step_s: float = 0.0
    ) -> list[str]:
        killed.clear()
        engine.slowest_step_s = step_s
        engine.ready, engine.patience_s, engine.last_beat = ready, patience_s, 0.0
        for frontend in supervisor._frontends:
            frontend.last_beat = silent_s
        supervisor._kill_hung(silent_s)
        return list(killed)

    yield judge
    supervisor.close()


@pytest.fixture
def frontends(tmp_path_factory):
    """Return a function that returns why silent frontends are killed, with a limit of 5 s."""
    config = Config(server=Server(workers=2), supervision=Supervision(hang_timeout_s=5))
    run_dir = str(tmp_path_factory.mktemp("s"))
    runtime = Runtime(config=config, backend="dry_run", run_dir=run_dir, engines=[])
    supervisor = Supervisor(runtime, Console(runtime), SOCKETS)
    killed: list[str] = []

    def judge(silent_s: float, *, heard: bool) -> list[str]:
        for child in supervisor._frontends:
            child.kill = killed.append
            child.started_at = -1.0 if heard else 0.0
            child.last_beat = 0.0
        supervisor._kill_hung(silent_s)
        return killed

    yield judge
    supervisor.close()


@pytest.mark.parametrize(
    ("silent_s", "patience_s", "hung"),
    [
        (19, 20.0, False),
        (21, 20.0, True),
        (119, None, False),
        (121, None, True),
        (119, 500.0, False),
        (121, 500.0, True),
    ],
)
def test_an_engine_is_judged_by_its_own_steps_and_the_configuration(
    judge, silent_s, patience_s, hung
):
    assert bool(judge(silent_s, patience_s)) == hung


def test_the_longest_prompt_that_was_promised_is_no_hang(judge):
    """Where a prompt is read in one step, as on a CPU, that may take minutes."""
    for silent_s, patience_s, hung in [
        (299, None, 0),
        (301, None, 1),
        (21, 20.0, 1),
        (299, 900, 0),
    ]:
        assert len(judge(silent_s, patience_s, step_s=100.0)) == hung
    assert judge(119, None, step_s=1.0) == []
    assert judge(121, None, step_s=1.0)


def test_an_engine_that_loads_has_the_time_to_load(judge):
    assert judge(1700, None, ready=False) == []
    assert judge(1801, None, ready=False) == ["did not load within 1800 s"]


@pytest.mark.parametrize(
    ("silent_s", "heard", "hung"), [(6, True, 2), (6, False, 0), (31, False, 2)]
)
def test_a_frontend_has_more_time_before_its_first_heartbeat(frontends, silent_s, heard, hung):
    assert len(frontends(silent_s, heard=heard)) == hung


@pytest.mark.parametrize(
    ("phase", "progress", "told"),
    [
        ("fetching x/y", (9 * 10**8, 10**10), "fetching x/y (81 % of 10.0 GB)"),
        ("filling the batch", (0, 0, 2000, 20_000), "filling the batch (18,000 of 20,000 tokens)"),
    ],
)
def test_what_goes_on_is_no_hang(tmp_path_factory, phase, progress, told):
    """It may take longer than a model may take to load; `/ready` tells how far it is."""
    run_dir = str(tmp_path_factory.mktemp("s"))
    config = Config(supervision=Supervision(load_timeout_s=100))
    spec = EngineSpec(model=config.model.name, address="ipc://a")
    runtime = Runtime(config=config, backend="dry_run", run_dir=run_dir, engines=[spec])
    supervisor = Supervisor(runtime, Console(runtime, io.StringIO()), SOCKETS)
    (engine,) = supervisor._engines
    killed = []
    engine.kill = killed.append
    seconds = Seconds()
    supervisor._clock = seconds
    engine._process = SimpleNamespace(pid=1)
    *nothing, done, total = progress
    for part in range(10):
        seconds.now += 90
        message = EnginePhase(1, phase, *nothing, part * done, total)
        supervisor._engines.hear(b"", message, seconds.now)
        supervisor._kill_hung(seconds.now)
    assert killed == []
    assert engine.state.detail == told
    supervisor._engines.hear(b"", EnginePhase(1, "loading weights"), seconds.now)
    supervisor._kill_hung(seconds.now + 101)
    assert killed == ["did not load within 100 s"]
    supervisor.close()
