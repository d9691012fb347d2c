"""``vgate join`` against a server that the test speaks for: what it keeps, and what it refuses."""

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest

from vgate.commands.command import CommandError
from vgate.config import Config
from vgate.config.links import EngineLink
from vgate.config.model import Model
from vgate.config.schema import Batch, DryRun, Server
from vgate.launcher.hosts import join
from vgate.wire.link_keys import ALLOWED, read_allowed

KEY = "a" * 64
_SECTIONS = {"model": Model(model_id="m"), "batch": Batch(), "dry_run": DryRun()}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1  # type: ignore[attr-defined]
        body = json.dumps(self.server.terms).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as found:
        sections = {name: msgspec.to_builtins(each) for name, each in _SECTIONS.items()}
        found.terms = {**sections, "backend": "dry_run", "public_key": KEY}
        found.asked = 0
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Join with a state directory, keys elsewhere, and no engine in the end."""
    monkeypatch.setattr(join, "serve", lambda *_: 0)

    def run(state) -> int:
        options = argparse.Namespace(
            server=f"http://127.0.0.1:{server.server_port}",
            token="t",
            **dict.fromkeys(("fingerprint", "plain_http", "listen", "address", "name")),
        )
        config = Config(
            server=Server(state_dir=str(state), run_dir=str(tmp_path / "run")),
            engine_link=EngineLink(keys=str(tmp_path / "keys"), listen="tcp://127.0.0.1:5799"),
        )
        return join.run(options, config)

    return run


def test_it_is_remembered_in_a_state_directory_that_it_makes(run, server, tmp_path):
    assert run(tmp_path / "state") == 0
    assert server.asked == 2
    assert run(tmp_path / "state") == 0
    assert server.asked == 2
    kept = tmp_path / "state/joined-5799.json"
    assert (kept.parent.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_state_directory_that_cannot_be_used_uses_no_token_up(run, server, tmp_path):
    (tmp_path / "state").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CommandError, match="cannot write"):
        run(tmp_path / "state")
    assert server.asked == 0


def test_only_the_server_that_was_joined_last_may_connect(run, server, tmp_path):
    assert run(tmp_path / "state") == 0
    server.terms["public_key"] = "b" * 64
    (tmp_path / "state/joined-5799.json").unlink()
    assert run(tmp_path / "state") == 0
    allowed = {key.hex() for key in read_allowed(tmp_path / "keys" / ALLOWED)}
    assert "b" * 64 in allowed
    assert KEY not in allowed


@pytest.mark.parametrize("key", ["zz", "abcd", "a" * 62 + " a"])
def test_what_is_no_key_is_not_let_in(run, server, tmp_path, key):
    server.terms["public_key"] = key
    with pytest.raises(CommandError, match="64 hexadecimal digits"):
        run(tmp_path / "state")
    assert len(read_allowed(tmp_path / "keys" / ALLOWED)) == 1
