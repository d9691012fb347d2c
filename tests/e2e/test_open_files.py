"""More connections than files may be open: the rest wait, and nothing dies."""

import resource
import socket
from pathlib import Path

import httpx
import psutil

from tests.e2e.instance import Instance

ALLOWED = 128


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


def test_connections_beyond_the_limit_wait(run_dirs: Path):
    with Limited(run_dirs, dry_run=True, server__workers=1) as server:
        assert "few files may be open" in server.logs()
        pids = server.pids()
        frontend = psutil.Process(pids["frontend-1"])
        request = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        connections = []
        for _ in range(2 * ALLOWED):
            connections.append(socket.create_connection(("127.0.0.1", server.port)))
            connections[-1].sendall(request)
        connections[0].settimeout(30)
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")
        before = frontend.cpu_times()
        connections[1].settimeout(1.0)
        connections[1].recv(100)
        try:
            connections[-1].settimeout(2.0)
            connections[-1].recv(100)
        except TimeoutError:
            pass
        after = frontend.cpu_times()
        # It does not spin while nothing can be accepted.
        assert after.user + after.system - before.user - before.system < 1.0
        for connection in connections:
            connection.close()
        assert httpx.get(server.url + "/health", timeout=30).status_code == 200
        assert server.pids() == pids
