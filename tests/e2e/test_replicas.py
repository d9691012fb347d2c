"""Three replicas of the dry-run engine: one dies, never loads, is drained or gets SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import ROOT, Instance, wait_until
from tests.e2e.traffic import Request, chat, endless

SETTINGS = {
    "model__replicas": 3,
    "server__workers": 2,
    "dry_run__step_ms": 10,
    "dry_run__prefill_tokens_per_s": 1e9,
}


def engines(server: Instance) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = httpx.get(f"{server.url}/admin/engines", timeout=10).json()["data"]
    return data


def load(server: Instance) -> list[int]:
    return [engine["running"] for engine in engines(server)]


def all_serve(server: Instance) -> bool:
    return all(e["state"] == "ready" and e["serves"] for e in engines(server))


def pid_of(server: Instance, number: int) -> int:
    return server.pid_of(f"engine-{number}" if number else "engine")


def spread(server: Instance, count: int = 12, **params: Any) -> tuple[list[str], list[Request]]:
    """Start streams that each replica has a part of; return their texts and them."""
    # A heartbeat may still tell of earlier ones.
    wait_until(lambda: sum(load(server)) == 0, 10, "the engines are idle")
    texts = [f"stream {number} goes on and on " for number in range(count)]
    streams = [Request(server.url, endless(text, stream=True, **params)) for text in texts]
    for stream in streams:
        stream.wait_for_text()
    wait_until(lambda: sum(load(server)) == count, 10, "all run")
    assert all(load(server))
    return texts, streams


def check_whole(texts: list[str], streams: list[Request], tokens: int) -> None:
    for text, stream in zip(texts, streams, strict=True):
        stream.wait()
        assert (stream.error, stream.broken, stream.done) == (None, None, True)
        assert stream.text == (text * (tokens // len(text) + 1))[:tokens]


def vgate(server: Instance, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vgate.launcher", *arguments],
        cwd=ROOT,
        env={**server.environment(), "VGATE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    run_dirs: Path = tmp_path_factory.mktemp("replicas")
    with Instance(run_dirs, dry_run=True, **SETTINGS) as server:
        yield server


@pytest.fixture
def server(replicas: Instance) -> Instance:
    """Return the instance, once all of it serves."""
    wait_until(lambda: all_serve(replicas), 60, "all replicas serve")
    return replicas


def test_streams_of_a_replica_that_dies_go_on_in_another_at_once(server: Instance):
    texts, streams = spread(server, max_tokens=400)
    victim = psutil.Process(pid_of(server, 1))
    victim.suspend()
    heard = [len(stream.text) for stream in streams]
    victim.kill()
    # Long before the replica could be back: none is started again within its first 0.25 s, and
    # its import alone takes longer.
    began = time.monotonic()
    wait_until(
        lambda: all(len(s.text) > n + 5 for s, n in zip(streams, heard, strict=True)),
        30,
        "all go on",
    )
    print(f"\nall streams went on after {time.monotonic() - began:.3f} s")
    assert not engines(server)[1]["serves"]
    check_whole(texts, streams, 400)
    assert "requests continue in another engine" in server.logs()


def test_a_drained_replica_finishes_what_it_has_and_stays_out(server: Instance):
    texts, streams = spread(server, max_tokens=300)
    before = pid_of(server, 2)
    drained = vgate(server, "engines", "drain", "2")
    assert drained.returncode == 0, drained.stderr
    assert "engine 2 is drained" in drained.stdout
    check_whole(texts, streams, 300)
    for number in range(6):
        assert Request(server.url, chat(f"hi {number}")).wait().status == 200
    engine = engines(server)[2]
    assert (engine["state"], engine["serves"], engine["restarts"]) == ("draining", False, 0)
    steps = httpx.get(f"{server.url}/stats").json()["engines"][2]["batching"]["sequence_steps"]
    assert httpx.get(f"{server.url}/ready").status_code == 200
    listed = vgate(server, "engines")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["ENGINE", "0", "1", "2"]
    assert "draining" in listed.stdout
    status = vgate(server, "status")
    assert status.returncode == 0
    assert "draining" in status.stdout
    assert vgate(server, "engines", "resume", "2").returncode == 0
    wait_until(lambda: all_serve(server), 10, "it serves again")
    assert pid_of(server, 2) == before
    texts, streams = spread(server, max_tokens=60)
    check_whole(texts, streams, 60)
    after = httpx.get(f"{server.url}/stats").json()["engines"][2]["batching"]["sequence_steps"]
    assert after > steps


def test_a_replica_is_restarted_once_its_requests_are_done(server: Instance):
    texts, streams = spread(server, max_tokens=200)
    before = pid_of(server, 0)
    told = vgate(server, "engines", "drain", "0", "--restart")
    assert told.returncode == 0, told.stderr
    assert "engine 0 was restarted and serves" in told.stdout
    check_whole(texts, streams, 200)
    assert pid_of(server, 0) != before
    refused = vgate(server, "engines", "drain", "7")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is no engine 7; there are: 0, 1, 2" in refused.stderr


def test_sigterm_drains_one_replica_that_comes_back(server: Instance):
    texts, streams = spread(server, max_tokens=250)
    victim = psutil.Process(pid_of(server, 1))
    died = server.logs().count("process died")
    victim.send_signal(signal.SIGTERM)
    wait_until(lambda: not engines(server)[1]["serves"], 10, "it takes nothing new")
    assert Request(server.url, chat("hi")).wait().status == 200
    check_whole(texts, streams, 250)
    victim.wait(20)
    wait_until(lambda: all_serve(server), 30, "it is back")
    assert pid_of(server, 1) != victim.pid
    assert server.logs().count("process died") == died
    assert "an engine has drained and ended" in server.logs()


def test_a_replica_that_never_loads_keeps_nobody_from_serving(run_dirs: Path):
    settings = {
        **SETTINGS,
        "dry_run__fault": "load",
        "dry_run__fault_replica": 1,
        "supervision__load_timeout_s": 8,
        "supervision__max_restarts": 0,
        "supervision__retry_replica_s": 2,
    }
    with Instance(run_dirs, dry_run=True, **settings) as server:
        assert httpx.get(f"{server.url}/ready").json()["ready"]
        told = "The engine-1 died 1 times: did not load within 8 s"
        wait_until(lambda: told in server.logs(), 60, "it is given up")

        def failed() -> bool:
            engine = httpx.get(f"{server.url}/ready").json()["engines"][1]
            return engine["state"] == "failed" and "did not load" in engine["detail"]

        wait_until(failed, 20, "/ready tells")
        assert 'state="failed"} 1.0' in httpx.get(f"{server.url}/metrics").text
        texts = [f"number {number} " for number in range(8)]
        streams = [Request(server.url, endless(text, stream=True, max_tokens=50)) for text in texts]
        check_whole(texts, streams, 50)
        wait_until(lambda: server.logs().count("gave up a replica") > 1, 60, "it is tried again")
        assert [engine["serves"] for engine in engines(server)] == [True, False, True]
        os.kill(pid_of(server, 0), signal.SIGKILL)
        assert Request(server.url, chat("hi")).wait().status == 200
