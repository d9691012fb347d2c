"""Which processes a contender has, and what they cost: on children that are made for it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.compare.service import (
    FailedError,
    Running,
    Service,
    cpu_s,
    descendants,
    free_port,
    kind_of,
    usage,
)
from bench.load.processes import Watch

BURN = """
import time
while time.process_time() < {}: sum(range(20_000))
print('done', flush=True)
input()
"""
# A server that answers everything with 200, with a child of its own that only waits.
SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # waiter"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *arguments): pass
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def a_service(command: list[str], port: int, **fields: object) -> Service:
    kinds = (("http.server", "frontend"), ("waiter", "launcher"))
    return Service(
        name="it", command=command, port=port, ready_path="/", kinds=kinds,
        ready_timeout_s=30, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_cpu_time_is_read_more_finely_than_ticks() -> None:
    code = BURN.format(0.2)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        watch = Watch((("burner", child.pid),))
        child.stdout.readline()
        (cost,) = watch.costs(requests=2, output_tokens=100)
        spent_s = cpu_s([("burner", child.pid)])
        child.communicate(b"\n")
    # All of its life but what came before the watch began, rounded to milliseconds, and not in
    # whole ticks of 10 ms.
    assert 0.1 < cost.cpu_s <= spent_s + 0.0005
    assert spent_s >= 0.2
    assert spent_s * 100 % 1 != 0
    assert cost.user_share is not None
    assert cost.user_share > 0.5
    assert cost.cpu_us_per_request == pytest.approx(cost.cpu_s * 1e6 / 2, rel=0.01)
    assert cost.peak_rss_mib >= cost.rss_mib > 1


def test_threads_that_have_ended_count() -> None:
    code = (
        "import threading, time\n"
        "def burn():\n while time.thread_time() < 0.1: pass\n"
        "threads = [threading.Thread(target=burn) for _ in range(2)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print('done', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent_s = cpu_s([("burner", child.pid)])
        child.communicate(b"\n")
    assert spent_s >= 0.2


def test_a_process_that_is_gone_has_no_kind_and_costs_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert kind_of(child.pid, ()) is None
    assert cpu_s([("x", child.pid)]) == 0
    assert usage([("x", child.pid)]) == {"cpu_s": 0}


def test_this_process_is_its_own_first_descendant() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = descendants(os.getpid())
        assert found[0] == os.getpid()
        assert child.pid in found
        child.communicate(b"\n")


def test_a_contender_is_ready_known_by_kind_and_ends_with_its_children() -> None:
    port = free_port()
    service = a_service([sys.executable, "-c", SERVER, str(port)], port)
    with Running(service) as running:
        kinds = dict(running.processes)
        assert set(kinds) == {"frontend", "launcher"}
        assert kind_of(kinds["frontend"], service.kinds) == "frontend"
        assert {"rss_mib.frontend", "peak_rss_mib.launcher"} < set(usage(running.processes))
        assert running.start_s > 0
        assert "listening" in running.log_tail()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{kinds['launcher']}/cmdline").is_file():
        if not Path(f"/proc/{kinds['launcher']}/cmdline").read_bytes():
            break  # ended, and not yet waited for by the one who inherited it
        assert time.monotonic() < deadline, "the child has outlived its contender"
        time.sleep(0.02)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_contender_that_ends_while_starting_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no model here')"]
    with pytest.raises(FailedError, match="ended while starting: no model here") as failed:
        Running(a_service(command, free_port())).__enter__()
    assert "first" in failed.value.log


def test_the_environment_is_added_to_and_taken_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPARE_TAKEN", "1")
    code = (
        "import os; "
        "raise SystemExit(f\"{os.environ.get('COMPARE_TAKEN')} {os.environ['COMPARE_GIVEN']}\")"
    )
    environment = {"COMPARE_TAKEN": None, "COMPARE_GIVEN": "2"}
    service = a_service([sys.executable, "-c", code], free_port(), environment=environment)
    with pytest.raises(FailedError, match="None 2"):
        Running(service).__enter__()
