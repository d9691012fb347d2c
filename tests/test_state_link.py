"""What `vgate check` says of a shared server that can't be used."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.authority import Authority
from tests.state_server import StateServer, find_server
from vgate import state_link
from vgate.config.schema import State
from vgate.state_link import explain, problems

pytestmark = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)


@pytest.fixture(scope="module")
def server() -> Iterator[StateServer]:
    with StateServer() as started:
        yield started


def problem_of(url: str, **settings: str) -> str:
    found = problems(State(url=url, **settings))
    assert len(found) == 1, found
    return found[0]


def test_a_server_that_can_be_used(server: StateServer):
    assert problems(State(url=server.url)) == []
    assert problems(State(url=server.url.replace("redis://", "valkey://"))) == []
    assert problems(State()) == []


@pytest.mark.parametrize("password", ["secret/x", "secret#x", "secret?x", "secret[x"])
def test_a_password_that_is_not_quoted_is_not_shown(password: str):
    problem = problem_of(f"valkey://:{password}@127.0.0.1:1")
    assert "secret" not in problem
    assert "%2F" in problem


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        problem = problem_of(f"redis://127.0.0.1:{unused.getsockname()[1]}")
    assert problem.startswith("state.url: the server can't be used: ")
    assert "refused" in problem or "Connect call failed" in problem


def test_a_missing_socket(tmp_path: Path):
    assert "No such file" in problem_of(f"unix://{tmp_path}/none.sock")


def test_a_server_that_is_paused(server: StateServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state_link, "_LOOK_S", 0.2)
    server.pause()
    try:
        assert "in time" in problem_of(server.url)
    finally:
        server.go_on()


@pytest.mark.parametrize(
    ("userinfo", "words"), [("", "wants a password"), (":wrong@", "doesn't accept")]
)
def test_passwords(userinfo: str, words: str):
    with StateServer("--requirepass", "right") as server:
        address = f"127.0.0.1:{server.port}"
        assert words in problem_of(f"redis://{userinfo}{address}")
        assert problems(State(url=f"redis://:right@{address}")) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "may evict"),
        (("--maxmemory", "1"), "memory is full"),
        (("--replicaof", "127.0.0.1 1"), "read-only replica"),
    ],
)
def test_servers_that_would_lose_or_refuse_counts(options: tuple[str, ...], words: str):
    with StateServer(*options) as server:
        assert words in problem_of(server.url)


def test_an_old_version(monkeypatch: pytest.MonkeyPatch, server: StateServer):
    monkeypatch.setattr(state_link, "_OLDEST", (99, 0))
    assert "99.0 or newer" in problem_of(server.url)


def test_tls(tmp_path: Path, server: StateServer, monkeypatch: pytest.MonkeyPatch):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("localhost")
    with StateServer(
        "--tls-port",
        str(free := _free_port()),
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(authority.file),
        "--tls-auth-clients",
        "no",
    ):
        url = f"valkeys://localhost:{free}"
        assert problems(State(url=url, ca=str(authority.file))) == []
        assert "state.ca" in problem_of(url)
        assert "want TLS" in problem_of(f"redis://localhost:{free}")
    monkeypatch.setattr(state_link, "_LOOK_S", 0.5)
    assert "speak TLS" in problem_of(server.url.replace("redis:", "rediss:"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state_link, "find_spec", lambda _name: None)
    assert "vgate[state]" in problem_of("redis://127.0.0.1:1")


def test_other_errors_are_told_as_they_are():
    assert explain(ValueError("something  else.")) == "something else"


def test_the_command_says_it():
    environ = {**os.environ, "VGATE_CONFIG_PATH": os.devnull, "VGATE_SERVER__PORT": "1"}
    environ["VGATE_STATE__URL"] = "redis://:secret@127.0.0.1:1"
    command = [sys.executable, "-m", "vgate.launcher", "check"]
    environ["VGATE_DRY_RUN"] = "1"
    checked = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert checked.returncode != 0
    assert "state.url: the server can't be used" in checked.stderr
    assert "secret" not in checked.stderr + checked.stdout


def test_nothing_is_imported_without_a_url(tmp_path):
    program = (
        "import sys, vgate.frontend.app, vgate.launcher.cli; "
        "print([m for m in sys.modules if m.partition('.')[0] in ('redis', 'hiredis')"
        " or m.startswith('vgate.frontend.shared_state.')])"
    )
    command = [sys.executable, "-c", program]
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.stdout.strip() == "[]", done.stderr
