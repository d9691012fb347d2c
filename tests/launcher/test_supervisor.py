"""Which processes the launcher supervises, without starting any."""

import pytest

from tests.launcher.sockets import Sockets
from vgate.config import Config, EngineSpec, Runtime
from vgate.launcher.console import Console
from vgate.launcher.supervisor import Supervisor


@pytest.fixture
def supervised(tmp_path_factory):
    made = []

    def build(*engines: EngineSpec) -> list[str]:
        """Return the names of the processes that a launcher supervises."""
        run_dir = str(tmp_path_factory.mktemp("s"))
        runtime = Runtime(
            config=Config(), backend="dry_run", run_dir=run_dir, engines=list(engines)
        )
        supervisor = Supervisor(runtime, Console(runtime), Sockets())
        made.append(supervisor)
        return [child.name for child in supervisor._children]

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
