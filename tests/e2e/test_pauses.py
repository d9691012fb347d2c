"""A pause of everything, as by `docker pause`, kills nothing that is healthy."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, Request, chat, endless

HANG_S = 3.0


@pytest.mark.parametrize("first", ["launcher", "children"])
def test_nothing_is_killed_after_a_pause_of_everything(run_dirs: Path, first: str):
    settings = {"supervision__hang_timeout_s": HANG_S, "dry_run__step_ms": 20}
    with Instance(run_dirs, dry_run=True, server__workers=2, **settings) as server:
        pids = server.pids()
        stream = Request(server.url, endless(stream=True, max_tokens=100)).wait_for_text()
        order = [server.process.pid, *pids.values()]
        for pid in order:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * HANG_S)  # the pause itself
        for pid in order if first == "launcher" else reversed(order):
            os.kill(pid, signal.SIGCONT)
        assert len(stream.wait().text) == 100
        assert stream.done
        # Long enough for a judgement.
        for _ in range(20):
            assert httpx.post(server.url + CHAT, json=chat("hi")).status_code == 200
            time.sleep(HANG_S / 20)
        assert server.pids() == pids
        assert "process died" not in server.logs()


def test_a_frontend_that_is_stopped_alone_is_replaced(run_dirs: Path):
    settings = {"supervision__hang_timeout_s": HANG_S, "server__workers": 2}
    with Instance(run_dirs, dry_run=True, **settings) as server:
        stopped = server.pid_of("frontend-1")
        os.kill(stopped, signal.SIGSTOP)
        wait_until(
            lambda: server.pids().get("frontend-1", stopped) != stopped, 30, "another frontend"
        )
        assert f"hung: silent for {HANG_S:.0f} s" in server.logs()
