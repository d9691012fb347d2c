"""A log that nobody reads stops nothing: requests, supervision or the end."""

import fcntl
import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, chat

# Every request is logged with its path.
LONG_PATH = "/" + "x" * 6000
LINES = 600


class Unread(Instance):
    """An instance whose output goes to a pipe that is read only on demand."""

    def __init__(self, run_dirs: Path, **settings) -> None:
        super().__init__(run_dirs, dry_run=True, **settings)
        self.pipe, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self._logs.close()
        self._logs = os.fdopen(writing, "wb")

    def wait_ready(self, timeout_s: float = 60):
        wait_until(self.ready, timeout_s, "ready")
        return self

    def read_log(self) -> "tuple[bytearray, threading.Thread]":
        """Read the log from now on, to its end."""
        found = bytearray()

        def read() -> None:
            while data := os.read(self.pipe, 65536):
                found.extend(data)

        thread = threading.Thread(target=read)
        thread.start()
        return found, thread

    def discard(self) -> None:
        super().discard()
        os.close(self.pipe)


@pytest.mark.parametrize("json_format", [True, False])
def test_nobody_reads(run_dirs: Path, json_format):
    with Unread(run_dirs, server__workers=2, logging__json_format=json_format) as server:
        with httpx.Client(timeout=20) as client:
            for _ in range(LINES):
                assert client.get(server.url + LONG_PATH).status_code == 404
            assert client.post(server.url + CHAT, json=chat("hi")).status_code == 200
        # Supervision goes on.
        pids = server.pids()
        os.kill(pids["engine"], signal.SIGKILL)
        wait_until(lambda: server.pids().get("engine", -1) not in {-1, pids["engine"]}, 30, "new")
        wait_until(server.ready, 30, "ready")
        assert server.stop() == 0


def test_what_was_dropped_is_told_when_somebody_reads_again(run_dirs: Path):
    with Unread(run_dirs, server__workers=1, logging__json_format=False) as server:
        with httpx.Client(timeout=20) as client:
            for _ in range(LINES):
                assert client.get(server.url + LONG_PATH).status_code == 404
        found, reader = server.read_log()
        wait_until(lambda: b"log lines were dropped count=" in found, 30, "told")
        assert httpx.post(server.url + CHAT, json=chat("hi")).status_code == 200
        following = f"path={CHAT}"
        wait_until(lambda: following.encode() in found, 30, "the next line")
        lines = found.decode().splitlines()
        (told,) = [line for line in lines if "log lines were dropped" in line]
        kept = sum(LONG_PATH in line for line in lines)
        assert kept + int(told.rpartition("=")[2]) in range(LINES, LINES + 20)
        assert lines.index(told) < next(n for n, line in enumerate(lines) if following in line)
        assert server.stop() == 0
        server._logs.close()
        reader.join(30)
        assert not reader.is_alive()
