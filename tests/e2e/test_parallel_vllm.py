"""Models over several workers: a stage for each layer. test_vllm.py has a share of each layer."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.test_vllm import (
    CONVERSATIONS,
    RESTART_TIMEOUT_S,
    SETTINGS,
    ask,
    ask_all,
    assert_as_offline,
    ended,
    offline,
    prompts,
    text_of,
)

__all__ = ["offline", "prompts"]  # fixtures

HOOK = Path(__file__).parent / "vllm_hook"

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(330)]


class Hooked(Instance):
    """An instance whose processes import tests/e2e/vllm_hook, with variables for that."""

    def __init__(self, run_dirs: Path, variables: dict[str, str], **settings: Any) -> None:
        super().__init__(run_dirs, dry_run=False, server__workers=1, **settings)
        self._variables = variables

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(HOOK), str(ROOT)])
        return super().environment() | {"PYTHONPATH": path} | self._variables


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that isn't there: as long as it is, a worker of `staged` fails."""
    return tmp_path_factory.mktemp("fault") / "memory"


@pytest.fixture(scope="module")
def staged(
    run_dirs: Path, tiny_model_dir: Path, fault: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    """An instance whose model has a worker for each of its two layers."""
    with Hooked(
        run_dirs,
        {"WORKER_FAULT": str(fault)},
        server__state_dir=str(tmp_path_factory.mktemp("state")),
        model__model_id=str(tiny_model_dir),
        model__pipeline_parallel_size=2,
        model__distributed_executor_backend="mp",
        **SETTINGS,
    ) as instance:
        yield instance


def workers_of(instance: Instance) -> list[psutil.Process]:
    engine = psutil.Process(instance.pid_of("engine"))
    return [p for p in engine.children(recursive=True) if "Worker" in p.name()]


def test_stages_give_what_one_worker_gives(staged: Instance, offline: list[dict[str, Any]]) -> None:
    assert len(workers_of(staged)) == 2
    assert_as_offline(asyncio.run(ask_all(staged)), offline)


def test_a_stream_goes_on_when_a_worker_dies(staged: Instance) -> None:
    asked: dict[str, Any] = {"max_tokens": 1200, "extra_body": {"ignore_eos": True}}
    with staged.client() as client:
        whole = ask(client, CONVERSATIONS[1], **asked)
        stream = ask(client, CONVERSATIONS[1], stream=True, **asked)
        chunks = [next(stream) for _ in range(20)]
        workers = workers_of(staged)
        workers[-1].kill()
        chunks += list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == text_of(whole)
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert "a worker process of vLLM died" in staged.logs()
    wait_until(staged.ready, RESTART_TIMEOUT_S, "ready again")
    assert all(map(ended, workers))


def test_a_worker_without_memory_is_told_from_a_crash(staged: Instance, fault: Path) -> None:
    fault.touch()
    with staged.client() as client:
        answer = ask(client, CONVERSATIONS[2], max_tokens=4)
    assert answer.usage.completion_tokens == 4
    assert not fault.exists()
    found = r"out of memory reason=.*can't allocate memory.* reductions=1"
    assert re.search(found, staged.logs()), staged.logs()


def test_ray_runs_the_workers(
    run_dirs: Path, tiny_model_dir: Path, offline: list[dict[str, Any]]
) -> None:
    pytest.importorskip("ray")
    with Hooked(
        run_dirs,
        {"RAY_OVERRIDE_RESOURCES": '{"GPU": 2}'},
        model__model_id=str(tiny_model_dir),
        model__tensor_parallel_size=2,
        model__distributed_executor_backend="ray",
        **SETTINGS,
    ) as instance:
        assert_as_offline(asyncio.run(ask_all(instance)), offline)
        assert len([p for p in instance.processes() if "RayWorker" in p.name()]) == 2
        left = instance.processes()
        maps = {map_.path for process in left for map_ in process.memory_maps()}
        memory = [path for path in maps if path.startswith("/dev/shm/psm_")]
        assert memory
        instance.stop()
    # Ray ends its processes when it misses the one that has started it.
    wait_until(lambda: all(map(ended, left)), 30, "the end of all processes")
    assert not [path for path in memory if Path(path).exists()]
