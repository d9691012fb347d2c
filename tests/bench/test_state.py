"""The measurement of a shared server's decisions, made small."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.state_server import StateServer, find_server

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)
def test_what_it_prints():
    with StateServer() as server:
        command = [sys.executable, "-m", "bench.state", "--url", server.url, "--requests", "20"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    local, shared, added = done.stdout.splitlines()
    assert json.loads(local)["limiter"] == "local"
    assert 0 < json.loads(shared)["p50_us"] <= json.loads(shared)["p99_us"]
    assert "adds" in added
