"""More connections than files may be open: the rest are refused, and nothing dies."""

import contextlib
import json
import resource
import socket
import time
from pathlib import Path

import httpx
import psutil

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT

ALLOWED = 128
CONNECTIONS = 40


class Limited(Instance):
    """An instance whose processes may have few files open."""

    def launch(self):
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().launch()
        assert self.process is not None
        # Before it has imported anything.
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (ALLOWED, ALLOWED))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
        return self


def request(server: Instance, path: str, body: bytes = b"") -> bytes:
    """Send a request on a new connection; return what comes until that is closed."""
    method = b"POST" if body else b"GET"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"%s %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%s"
            % (method, path.encode(), len(body), body)
        )
        answer = b""
        while not answer.endswith(b"}") and (data := connection.recv(65536)):
            answer += data
    return answer


def test_connections_beyond_the_limit_are_refused(run_dirs: Path):
    with (
        Limited(run_dirs, dry_run=True, server__workers=1) as server,
        contextlib.ExitStack() as opened,
    ):
        assert "few files may be open (ulimit -n): further connections" in server.logs()
        assert f"allowed={ALLOWED} needed_for_a_full_queue=" in server.logs()
        pids = server.pids()
        frontend = psutil.Process(pids["frontend-1"])
        idle = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(CONNECTIONS)
        ]
        wait_until(lambda: b" 503 " in request(server, "/v1/models")[:20], 30, "it is full")
        # Whatever is asked is answered at once, and a health check sees that it lives.
        for _ in range(3):
            assert request(server, "/health").startswith(b"HTTP/1.1 200 OK")
        answer = request(server, CHAT, b'{"model": "x"}' + b" " * 100_000)
        assert b"retry-after: 1" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        answer = request(server, "/v1/messages", b"{}")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "overloaded_error"
        before = frontend.cpu_times()
        time.sleep(1)
        after = frontend.cpu_times()
        # It does not spin while nothing can be accepted.
        assert after.user + after.system - before.user - before.system < 0.5
        for connection in idle:
            connection.close()
        wait_until(lambda: httpx.get(server.url + "/v1/models").status_code == 200, 30, "room")
        assert server.pids() == pids
        assert server.has_problem() is None
