"""Which processes the launcher supervises, without starting any."""

import pytest

from tests.launcher.sockets import SOCKETS
from vgate.config import Config, EngineSpec, Runtime
from vgate.config.schema import Server
from vgate.launcher.child import GaveUpError
from vgate.launcher.supervisor import Supervisor
from vgate.launcher.terminal.console import Console


@pytest.fixture
def supervised(tmp_path_factory):
    made = []

    def build(*engines: EngineSpec) -> list[str]:
        """Return the names of the processes that a launcher supervises."""
        run_dir = str(tmp_path_factory.mktemp("s"))
        runtime = Runtime(
            config=Config(), backend="dry_run", run_dir=run_dir, engines=list(engines)
        )
        supervisor = Supervisor(runtime, Console(runtime), SOCKETS)
        made.append(supervisor)
        return [child.name for child in (*supervisor._engines, *supervisor._frontends)]

    yield build
    for supervisor in made:
        supervisor.close()


def test_it_runs_every_replica(supervised):
    model = Config().model.name
    replicas = [EngineSpec(model=model, replica=n, address=f"ipc://{n}") for n in range(2)]
    assert supervised(*replicas)[:2] == ["engine-0", "engine-1"]


def test_it_leaves_unsupervised_engines_alone(supervised):
    model = Config().model.name
    local = EngineSpec(model=model, address="ipc://a")
    remote = EngineSpec(model=model, replica=1, address="tcp://b:1", supervised=False)
    assert [name for name in supervised(remote, local) if "engine" in name] == ["engine-1"]
    assert not any("engine" in name for name in supervised(remote))


def test_a_process_that_is_given_up_ends_no_drain(tmp_path, monkeypatch):
    config = Config(server=Server(drain_timeout_s=5, drain_delay_s=5, state_dir=str(tmp_path)))
    runtime = Runtime(config=config, backend="dry_run", run_dir=str(tmp_path), engines=[])
    supervisor = Supervisor(runtime, Console(runtime), SOCKETS)
    supervisor._engines.announced = True
    frontend, turns = supervisor._frontends.serving[0], []

    def supervise():
        turns.append("supervise")
        raise GaveUpError("the engine died 4 times")

    def receive():
        turns.append("receive")
        supervisor._drained.add(frontend.pid)  # it has finished its requests

    monkeypatch.setattr(supervisor, "_supervise", supervise)
    monkeypatch.setattr(supervisor, "_receive", receive)
    monkeypatch.setattr(type(frontend), "pid", 1)
    try:
        supervisor._drain()
    finally:
        supervisor.close()
    assert turns == ["supervise", "receive"]


def test_a_second_reason_to_give_up_leaves_no_process(tmp_path, monkeypatch):
    config = Config(server=Server(state_dir=str(tmp_path)))
    runtime = Runtime(config=config, backend="dry_run", run_dir=str(tmp_path), engines=[])
    supervisor = Supervisor(runtime, Console(runtime), SOCKETS)
    frontend, waits = supervisor._frontends.serving[0], [False, True]

    def receive():
        raise GaveUpError("it can't read the files of another model either")

    monkeypatch.setattr(supervisor, "_receive", receive)
    monkeypatch.setattr(frontend, "wait", lambda _: waits.pop(0))
    try:
        supervisor._stop_all()
    finally:
        supervisor.close()
    assert not waits, "not waited for until it ended"
