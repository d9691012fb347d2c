"""Models that sleep while another one runs, and what is left when none is loaded."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.load.processes import memory_kib
from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import Request, chat, endless
from vgate.config.section import MIB

NAMES = ["a", "b"]
# The bound for a V-Gate without a loaded model.
MOST_IDLE_MIB = 150


@pytest.fixture(scope="module")
def server(run_dirs: Path) -> Iterator[Instance]:
    usual = {"task": "generate", "load": "on_demand", "memory_bytes": 50 * MIB}
    with Instance(
        run_dirs,
        dry_run=True,
        models=[{"model_id": name, **usual} for name in NAMES],
        residency__memory_bytes=100 * MIB,
        residency__min_loaded_s=0.2,
        residency__max_wait_s=1,
        residency__unload="sleep",
        server__workers=1,
        dry_run__step_ms=2,
        batch__max_wait_time_ms=0,
    ) as instance:
        yield instance


def ask(server: Instance, model: str) -> Request:
    return Request(server.url, chat(f"I am {model}") | {"model": model})


def check(model: str, request: Request) -> None:
    request.wait()
    assert request.broken is None
    assert request.status == 200, request.answer
    assert request.answer["choices"][0]["message"]["content"] == f"I am {model}"


def serve(server: Instance, *names: str) -> None:
    for name in names:
        check(name, ask(server, name))


def engines(server: Instance) -> dict[str, int]:
    found = {role: pid for role, pid in server.pids().items() if role.startswith("engine")}
    return {NAMES[int(role.partition("-")[2] or 0)]: pid for role, pid in found.items()}


def test_models_take_turns_without_being_started_again(server: Instance) -> None:
    serve(server, "a", "b")
    before = engines(server)
    assert set(before) == {"a", "b"}
    serve(server, "a", "b", "a", "b", "a")
    assert engines(server) == before
    assert " sleeps=True " in server.logs()
    # What an engine leaves that is killed with a model in its memory.
    assert [file.name for file in (server.run_dir / "engines").iterdir()] == ["0"]


def test_requests_of_all_are_answered_while_they_take_turns(server: Instance) -> None:
    requests = []
    for number in range(40):
        name = NAMES[number * 7 % 3 % 2]
        requests.append((name, ask(server, name)))
        time.sleep(0.03)
    for name, request in requests:
        check(name, request)


def test_a_running_stream_ends_before_its_model_sleeps(server: Instance) -> None:
    serve(server, "a")
    body = endless("on ", stream=True, max_tokens=900) | {"model": "a"}
    stream = Request(server.url, body)
    wait_until(lambda: stream.text, 30, "the first token")
    serve(server, "b")
    stream.wait()
    assert (stream.done, stream.finish_reason, stream.error) == (True, "length", None)


def test_one_that_is_killed_asleep_is_started_again(server: Instance) -> None:
    serve(server, "a", "b")
    killed = engines(server)["a"]
    os.kill(killed, signal.SIGKILL)
    serve(server, "a")
    assert engines(server)["a"] != killed


def test_without_a_loaded_model_little_memory_is_left(server: Instance) -> None:
    serve(server, "a", "b")
    for name in NAMES:
        httpx.post(f"{server.url}/admin/models/{name}/unload").raise_for_status()
    wait_until(lambda: len(server.processes()) == 2, 30, "launcher and worker alone are left")
    assert server.ready()

    def memory() -> dict[int, float]:
        with contextlib.suppress(OSError):  # one has just ended
            return {each.pid: memory_kib(each.pid)["Pss"] / 1024 for each in server.processes()}
        return {}

    left = wait_until(memory, 10, "all that is left stays")
    assert sum(left.values()) < MOST_IDLE_MIB, left
    assert server.has_problem() is None or "process died" in server.logs()
