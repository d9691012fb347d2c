"""Models that take turns in the memory, with real processes of the dry-run engine."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import Request, chat, endless
from vgate.config.section import MIB

ROOM = 5
# By model: what it takes. Beside the pinned one there is room for two of a, b, c, or for one of
# x, y, z.
SIZES = {"p": 1, "a": 2, "b": 2, "c": 2, "x": 4, "y": 4, "z": 4, "brief": 1, "broken": 1}
NAMES = list(SIZES)
MAX_WAIT_S = 3


def models(broken: Path) -> list[dict[str, Any]]:
    own = {
        "p": {"load": "pinned"},
        "brief": {"idle_ttl_s": 1},
        "broken": {"model_id": str(broken)},
    }
    usual = {"task": "generate", "load": "on_demand"}
    return [
        {"model_id": name, "served_model_name": name, "memory_bytes": size * MIB, **usual}
        | own.get(name, {})
        for name, size in SIZES.items()
    ]


@pytest.fixture(scope="module")
def server(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    broken = tmp_path_factory.mktemp("broken")
    (broken / "tokenizer.json").write_text("{}")
    (broken / "config.json").write_text("{}")
    with Instance(
        run_dirs,
        dry_run=True,
        models=models(broken),
        residency__memory_bytes=ROOM * MIB,
        residency__min_loaded_s=0.5,
        residency__max_wait_s=MAX_WAIT_S,
        server__workers=2,
        dry_run__step_ms=2,
        supervision__max_restarts=20,
    ) as instance:
        yield instance


@pytest.fixture(scope="module", autouse=True)
def most_taken(server: Instance) -> Iterator[list[int]]:
    """Look at what the engines' processes take together; it is never more than there is."""
    taken, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            running = [NAMES[number] for number in pids(server)]
            taken.append(sum(SIZES[name] for name in running))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield taken
    ended.set()
    thread.join()
    assert 0 < max(taken) <= ROOM


def pids(server: Instance) -> dict[int, int]:
    """Return the processes of engines by their numbers."""
    try:
        return {
            int(role.partition("-")[2] or 0): pid
            for role, pid in server.pids().items()
            if role.startswith("engine")
        }
    except psutil.Error:  # one has just ended, or all have
        return {}


def loaded(server: Instance) -> set[str]:
    return {NAMES[number] for number in pids(server)}


def ask(server: Instance, model: str, **params: Any) -> Request:
    return Request(server.url, chat(f"I am {model}", **params) | {"model": model})


def check(model: str, request: Request) -> None:
    request.wait()
    assert request.broken is None
    assert request.status == 200, request.answer
    assert request.answer["choices"][0]["message"]["content"] == f"I am {model}"
    assert request.answer["model"] == model


def serve(server: Instance, *names: str) -> None:
    """Have models loaded, one after the other."""
    for name in names:
        check(name, ask(server, name))


def status_of(server: Instance, name: str) -> str:
    """Return a model's state as clients see it."""
    try:
        listed = httpx.get(f"{server.url}/v1/models", timeout=5).json()["data"]
    except httpx.HTTPError:  # the frontends start
        return ""
    return next(model["status"]["value"] for model in listed if model["id"] == name)


def loads(server: Instance) -> list[str]:
    """Return which models were loaded so far, in order."""
    lines = [line for line in server.logs().splitlines() if " model loaded " in line]
    return [line.partition(" model=")[2].split()[0] for line in lines]


def test_only_the_pinned_model_is_loaded_at_the_start(server):
    assert loaded(server) == {"p"}
    assert "Model  a: on demand" in server.logs()
    assert server.ready()
    listed = {model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert listed == set(SIZES)


def test_the_least_recently_used_idle_model_makes_room(server):
    serve(server, "a", "b")
    assert loaded(server) == {"p", "a", "b"}
    serve(server, "a", "c")
    assert loaded(server) == {"p", "a", "c"}
    serve(server, "x")
    assert loaded(server) == {"p", "x"}
    assert "Loading x: unloads a, c first." in server.logs()


def test_alternating_requests_are_served_in_batches(server):
    serve(server, "x")
    before = len(loads(server))
    requests = []
    for name in "xyxxzxyz":
        requests.append((name, ask(server, name)))
        time.sleep(0.1)
    for name, request in requests:
        check(name, request)
    assert len(loads(server)) - before <= 3


def test_a_running_stream_is_not_cut_by_a_swap(server):
    serve(server, "a")
    text = "on and on "
    body = endless(text, model="a", stream=True, max_tokens=1800)
    stream = Request(server.url, body).wait_for_text()
    began = time.monotonic()
    other = ask(server, "y")
    # In time, one that comes later is served by the model that is loaded.
    check("a", ask(server, "a"))
    assert other.is_alive()
    wait_until(lambda: "y is asked for" in server.logs(), 30, "room is made for y")
    later = ask(server, "a")
    stream.wait()
    assert (stream.error, stream.broken, stream.done) == (None, None, True)
    assert len(stream.text) >= 1700
    check("y", other)
    check("a", later)
    assert time.monotonic() - began >= MAX_WAIT_S - 1


def test_a_model_goes_when_it_has_been_idle(server):
    serve(server, "brief")
    told = 'model unloaded model=brief reason="it has been idle for 1 s"'
    wait_until(lambda: told in server.logs(), 20, "it is unloaded")
    assert "brief" not in loaded(server)


def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(server):
    serve(server, "a")
    failed = ask(server, "broken").wait()
    assert failed.status == 503
    assert "cannot read the tokenizer" in json.dumps(failed.answer)
    check("a", ask(server, "a"))
    assert ask(server, "broken").wait().status == 503


def test_engines_that_are_killed_cost_no_request(server):
    chance = random.Random(3)
    names = ["a", "b", "c", "x", "y", "z"]
    count = int(os.environ.get("VGATE_TEST_SWAPS", "40"))
    requests: list[tuple[str, Request]] = []
    refused: list[tuple[int | None, Any]] = []
    for number in range(count):
        name = chance.choice(names)
        requests.append((name, ask(server, name, stream=False)))
        time.sleep(0.02)
        if number % max(10, count // 20) == 9:
            found = pids(server)
            found.pop(0, None)
            if found:
                os.kill(chance.choice(list(found.values())), signal.SIGKILL)
    for name, request in requests:
        request.wait()
        if request.status == 200:
            check(name, request)
        else:  # it ran in two engines when they died
            refused.append((request.status, request.answer))
    assert len(refused) <= count / 100, refused
    assert all(status in (500, 502, 503) for status, _ in refused)


def test_nothing_is_loaded_for_requests_that_died_with_their_frontends(server):
    serve(server, "x")
    stream = Request(server.url, endless(model="x", stream=True, max_tokens=20_000))
    stream.wait_for_text()
    before = len(loads(server))
    waiting = ask(server, "z")
    wait_until(lambda: status_of(server, "z") == "queued", 20, "z waits for room")
    for role in ("frontend-1", "frontend-2"):
        os.kill(server.pid_of(role), signal.SIGKILL)
    assert waiting.wait().broken
    assert stream.wait().broken
    wait_until(server.ready, 60, "others serve")
    wait_until(lambda: status_of(server, "z") == "unloaded", 20, "nobody waits any more")
    serve(server, "p")
    assert loads(server)[before:] == []


def test_a_reload_changes_nothing_for_models(server):
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "new frontends serve" in server.logs(), 60, "it has reloaded")
    assert "changed=[] need_restart=[]" in server.logs()
    serve(server, "b", "x")


def test_the_pinned_model_was_never_unloaded(server):
    assert "p" in loaded(server)
    assert " model unloaded model=p " not in server.logs()


def test_sigterm_during_a_swap_ends_all(server):
    serve(server, "x")
    request = ask(server, "y")
    wait_until(lambda: "x" not in loaded(server) or request.status, 30, "it is on its way")
    assert server.stop() == 0
    request.wait()
    assert server.has_problem() is None or "process died" in server.logs()
