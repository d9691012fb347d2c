"""Stopping: running requests finish within a limit, and nothing is left behind."""

import json
import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.test_failures import check_cut_off, check_gone, instance
from tests.e2e.traffic import Request, chat, endless

# Far more than it takes, far less than a drain's limit of 30 s.
PROMPT_S = 15


def signalled(server: Instance, sig: signal.Signals) -> list[psutil.Process]:
    """Send the launcher a signal; return the processes that ran."""
    processes = server.processes()
    server.process.send_signal(sig)
    return processes


def check_ended(server: Instance, processes: list[psutil.Process], timeout_s: float) -> None:
    """Check that it ended in time, with status 0, and left nothing behind."""
    assert server.process.wait(timeout_s) == 0
    check_gone(server, processes)
    assert not server.run_dir.exists()
    assert server.has_problem() is None


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_running_streams_finish(run_dirs: Path, sig: signal.Signals):
    with instance(run_dirs, batch__max_num_seqs=2) as server:
        streams = [
            Request(server.url, endless(stream=True, max_tokens=100)).wait_for_text()
            for _ in range(2)
        ]
        waiting = Request(server.url, chat("waits for a place"))
        wait_until(lambda: not waiting.is_alive() or waiting.ident, 5, "it was sent")
        with httpx.Client(base_url=server.url) as client:
            client.get("/ready")
            time.sleep(0.2)  # until the request that waits has surely been taken in
            processes = signalled(server, sig)
            wait_until(lambda: client.get("/ready").status_code == 503, 5, "/ready turns")
            assert all(stream.is_alive() for stream in streams), "readiness did not turn first"
            assert client.get("/ready").json()["reason"] == "the server is shutting down"
            assert client.get("/health").status_code == 200
            refused = client.post("/v1/chat/completions", json=chat("too late"))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) >= 1
        for stream in streams:
            assert stream.wait().done
            assert len(stream.text) == 100
        assert waiting.wait().answer["choices"][0]["message"]["content"] == "waits for a place"
        check_ended(server, processes, PROMPT_S)


def test_requests_are_served_during_the_delay_even_by_another_engine(run_dirs: Path):
    with instance(run_dirs, server__drain_delay_s=60, server__workers=2) as server:
        processes = signalled(server, signal.SIGTERM)
        wait_until(lambda: not server.ready(), 5, "/ready turns")
        psutil.Process(server.pid_of("engine")).kill()
        served = httpx.post(f"{server.url}/v1/chat/completions", json=chat("still"), timeout=30)
        assert served.json()["choices"][0]["message"]["content"] == "still"
        assert served.headers["connection"] == "close"
        signalled(server, signal.SIGTERM)
        assert server.process.wait(PROMPT_S) == 0
        check_gone(server, processes)


def test_idle_connections_do_not_delay_it(run_dirs: Path):
    with instance(run_dirs) as server, httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            client.get("/health")
        processes = signalled(server, signal.SIGTERM)
        started = time.monotonic()
        check_ended(server, processes, PROMPT_S)
        print(f"\nan idle server ended within {time.monotonic() - started:.2f} s")


def test_a_request_past_the_drain_limit_gets_an_error(run_dirs: Path):
    with instance(run_dirs, server__drain_timeout_s=1, batch__max_num_seqs=2) as server:
        streams = [Request(server.url, endless(stream=True)).wait_for_text() for _ in range(2)]
        waiting = [Request(server.url, chat("hi", stream=s)) for s in (False, True)]
        time.sleep(0.2)  # until the requests that wait have surely been taken in
        processes = signalled(server, signal.SIGTERM)
        for stream in streams:
            check_cut_off(stream.wait(), "shutting_down")
        for request in waiting:
            assert request.wait().status == 503
            assert request.answer["error"]["code"] == "shutting_down"
            assert int(request.headers["retry-after"]) >= 1
        check_ended(server, processes, PROMPT_S)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(run_dirs: Path, sig: signal.Signals):
    with instance(run_dirs) as server:
        streams = [Request(server.url, endless(stream=True)).wait_for_text() for _ in range(2)]
        processes = signalled(server, sig)
        wait_until(lambda: not server.ready(), 5, "it drains")
        signalled(server, sig)
        second_at = time.monotonic()
        for stream in streams:
            assert not stream.wait().done
            print(f"\nstream ended after {stream.ended_at - second_at:.2f} s", stream.error)
            assert stream.error or stream.broken
        check_ended(server, processes, PROMPT_S)
        print(f"ended after {time.monotonic() - second_at:.2f} s")


def test_a_client_that_never_sends_its_body_does_not_delay_it(run_dirs: Path):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    with (
        instance(run_dirs, server__drain_timeout_s=600) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")  # the body is waited for
        connection.sendall(b"{")
        processes = signalled(server, signal.SIGTERM)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert received.startswith(b"HTTP/1.1 503")
        assert b"shutting_down" in received
        check_ended(server, processes, PROMPT_S)


def test_engines_drain_once_the_frontends_are_gone(run_dirs: Path):
    with instance(run_dirs, logging__json_format=True) as server:
        check_ended(server, signalled(server, signal.SIGTERM), PROMPT_S)
        # Nothing but JSON is written.
        lines = [json.loads(line) for line in server.logs().splitlines()]
    drains = [line["process"] for line in lines if line["event"] == "draining"]
    assert drains[-1] == "engine"
    assert "frontend-1" in drains
    assert not [line for line in lines if "killed" in line["event"]]


@pytest.mark.parametrize("progress", ["engine", "frontend-1", "frontend-2", "engine-0.sock"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stopping_during_the_start(run_dirs: Path, sig: signal.Signals, progress: str):
    server = Instance(run_dirs, dry_run=True, server__workers=2).launch()
    try:
        wait_until(
            lambda: progress in server.pids() or (server.run_dir / progress).exists(),
            20,
            "it starts",
        )
        processes = signalled(server, sig)
        started = time.monotonic()
        check_ended(server, processes, PROMPT_S)
        print(f"\nended within {time.monotonic() - started:.2f} s")
    finally:
        server.discard()
