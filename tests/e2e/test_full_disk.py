"""A full disk with the run and state directories: all are served and counted, nothing dies."""

import os
import re
import signal
from pathlib import Path

import httpx

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, chat
from tests.small_disk import fill, small_disk
from vgate.usage import read_usage


def test_requests_are_served_and_workers_restart_while_the_disk_is_full(tmp_path: Path):
    with (
        small_disk(tmp_path / "d", 8 * 1024) as disk,
        Instance(disk, dry_run=True, server__workers=2, responses__store=False) as server,
    ):
        assert httpx.post(server.url + CHAT, json=chat("hi")).status_code == 200
        filler = fill(disk)
        # More series than the first 64 KiB have room for.
        for _ in range(4):
            with httpx.Client() as client:
                for number in range(64):
                    body = chat("hi") | {f"unknown_{number}_{'x' * 2000}": 1}
                    assert client.post(server.url + CHAT, json=body).status_code == 200
        wait_until(
            lambda: "use is not in the ledger yet" in httpx.get(server.url + "/ready").text,
            30,
            "it tells that the ledger waits",
        )
        # Each connection meets any of the workers.
        answers = [httpx.get(server.url + "/ready") for _ in range(8)]
        assert {answer.status_code for answer in answers} == {200}
        warnings = [warning for answer in answers for warning in answer.json()["warnings"]]
        assert re.search("No space left on device|database or disk is full", warnings[0])
        assert "use can't be written to the ledger, and waits" in server.logs()
        (row,) = read_usage(disk / "state", by=[])
        assert row.used.requests <= 1 + 4 * 64  # a worker may count in memory
        filler.unlink()

        def no_warnings() -> bool:
            return not any(httpx.get(server.url + "/ready").json()["warnings"] for _ in range(8))

        wait_until(no_warnings, 30, "the counts are written again")
        (row,) = read_usage(disk / "state", by=[])
        assert row.used.requests == 1 + 4 * 64
        assert server.logs().count("counts are written to the run directory again") >= 1
        fill(disk)
        pids = server.pids()
        os.kill(pids["frontend-1"], signal.SIGKILL)
        wait_until(lambda: server.pids().get("frontend-1", -1) not in {-1, *pids.values()}, 30, "1")
        wait_until(server.ready, 30, "ready")
        for path in ("/metrics", "/stats"):
            assert httpx.get(server.url + path).status_code == 200
        assert server.pids().keys() == pids.keys()
        assert server.pids()["frontend-2"] == pids["frontend-2"]
