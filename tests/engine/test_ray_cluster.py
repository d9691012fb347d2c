"""Joining a Ray cluster; a stand-in says what it has. tests/e2e/test_parallel_vllm.py has Ray."""

import itertools
import subprocess
import sys
from multiprocessing import shared_memory
from types import SimpleNamespace
from typing import Any

import pytest

from vgate.config import Config
from vgate.config.model import Model
from vgate.engine.backends import ray_cluster
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm import environment

FOUR = SimpleNamespace(world_size=4, ray_runtime_env=None)


class FakeRay:
    """A cluster of two machines; `free` are its free GPUs each time when it is asked."""

    def __init__(self, total: float, *free: float, refuses: tuple[Any, ...] = ()) -> None:
        self._total = total
        self._free = itertools.chain(free, itertools.repeat(free[-1]))
        self._refuses = dict(refuses)
        self.addresses: list[str] = []
        self.directory = ""

    def init(self, address: str, _temp_dir: str = "", **_options: Any) -> None:
        self.addresses.append(address)
        self.directory = _temp_dir
        if address in self._refuses:
            raise self._refuses[address]

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self._total, "CPU": 8.0}

    def available_resources(self) -> dict[str, float]:
        # A kind of which nothing is free is left out.
        free = next(self._free)
        return {"GPU": free} if free else {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True}, {"Alive": False}, {"Alive": True}]


@pytest.fixture
def join(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(ray_cluster.time, "sleep", lambda _: None)

    def run(ray: FakeRay) -> list[str]:
        phases: list[str] = []
        monkeypatch.setitem(sys.modules, "ray", ray)
        ray_cluster.join_cluster(FOUR, "GPU", lambda phase, *_: phases.append(phase))
        return phases

    return run


def test_an_existing_cluster_comes_first(join, monkeypatch):
    ray = FakeRay(4, 4)
    assert join(ray) == ["connecting to the Ray cluster"]
    assert ray.addresses == ["auto"]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray = FakeRay(4, 4)
    join(ray)
    assert ray.addresses == ["10.0.0.1:6379"]


def test_without_one_ray_is_started_here(join):
    ray = FakeRay(4, 4, refuses=(("auto", ConnectionError("none")),))
    join(ray)
    assert ray.addresses == ["auto", "local"]


@pytest.mark.parametrize(
    ("ours", "rays", "chosen"),
    [
        ("/tmp/vgate-1234", None, "/tmp/vgate-1234"),
        ("/scratch" * 10, None, "/tmp/ray"),
        ("/scratch" * 10, "/fast", "/fast"),
    ],
)
def test_the_names_of_its_sockets_are_not_too_long(join, monkeypatch, ours, rays, chosen):
    monkeypatch.setattr(ray_cluster.tempfile, "gettempdir", lambda: ours)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if rays is not None:
        monkeypatch.setenv("RAY_TMPDIR", rays)
    ray = FakeRay(4, 4, refuses=(("auto", ConnectionError("none")),))
    join(ray)
    assert ray.directory == chosen


def test_a_cluster_that_is_named_and_missing_is_no_other(join, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray = FakeRay(4, 4, refuses=(("10.0.0.1:6379", ConnectionError("none")),))
    with pytest.raises(
        BackendError, match=r"no Ray cluster at RAY_ADDRESS=10\.0\.0\.1:6379"
    ) as caught:
        join(ray)
    assert not caught.value.permanent
    assert ray.addresses == ["10.0.0.1:6379"]


def test_a_cluster_of_another_version_is_refused_for_good(join):
    ray = FakeRay(4, 4, refuses=(("auto", RuntimeError("Version mismatch: 2.9 and 2.60")),))
    with pytest.raises(
        BackendError, match="cannot join the Ray cluster: Version mismatch"
    ) as caught:
        join(ray)
    assert caught.value.permanent


def test_gpus_of_an_engine_that_has_ended_are_waited_for(join):
    phases = join(FakeRay(4, 0, 2, 4))
    assert phases[1:] == ["waiting for free GPUs in the Ray cluster"] * 2


def test_a_cluster_that_is_too_small_is_refused_at_once(join):
    with pytest.raises(BackendError) as caught:
        join(FakeRay(3, 1))
    said = str(caught.value)
    assert "needs 4 GPUs, and the Ray cluster of 2 machines has 3, of which 1 are free" in said
    # Others may join it.
    assert not caught.value.permanent


def test_gpus_that_others_keep_are_not_waited_for_without_end(join, monkeypatch):
    ticks = itertools.count(0.0, 10.0)
    monkeypatch.setattr(ray_cluster.time, "monotonic", lambda: next(ticks))
    with pytest.raises(BackendError, match="has 4, of which 2 are free"):
        join(FakeRay(4, 2))


def test_the_build_for_cpus_is_refused():
    with pytest.raises(BackendError, match="runs its workers on a CPU") as caught:
        ray_cluster.join_cluster(FOUR, "", lambda *_: None)
    assert caught.value.permanent


def test_a_missing_ray_is_told_before_vllm_is_imported(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda _name: None)
    phases: list[str] = []
    config = Config(model=Model(distributed_executor_backend="ray"))
    with pytest.raises(BackendError, match="Ray is not installed here") as caught:
        environment.create(config, lambda phase, *_: phases.append(phase))
    assert caught.value.permanent
    assert phases == []


def test_what_workers_share_is_found_by_what_they_answer_through():
    answers, others = (shared_memory.SharedMemory(create=True, size=16) for _ in range(2))
    script = (
        "import sys\n"
        "from multiprocessing import resource_tracker, shared_memory\n"
        "resource_tracker.register = lambda *_: None\n"
        "held = [shared_memory.SharedMemory(name) for name in sys.argv[1:]]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    worker, stranger = (
        subprocess.Popen(
            [sys.executable, "-c", script, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for names in ([answers.name, others.name], [others.name])
    )
    try:
        for process in (worker, stranger):
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        queues = [SimpleNamespace(buffer=SimpleNamespace(shared_memory=answers))]
        # One on another machine answers over the network.
        executor = SimpleNamespace(response_mqs=[*queues, SimpleNamespace(buffer=None)])
        found = {path.name for path in ray_cluster.shared_memory_of_workers(executor)}
        assert found == {answers.name, others.name}
        assert ray_cluster.shared_memory_of_workers(SimpleNamespace()) == set()
    finally:
        for process in (worker, stranger):
            process.communicate()
        for one in (answers, others):
            one.close()
            one.unlink()
