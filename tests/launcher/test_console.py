"""Progress: one line for each phase, which a terminal refreshes."""

import io
import json

import pytest

from vgate.config import Config, Runtime
from vgate.config.schema import Logging, Model, Server
from vgate.launcher import console as module
from vgate.launcher.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def make(out, backend="vllm", **sections):
    config = Config(**{"model": Model(model_id="some/model"), **sections})
    return Console(Runtime(config=config, backend=backend, run_dir="/run", engines=[]), out)


def test_without_a_terminal_every_phase_is_a_line(clock):
    out = io.StringIO()
    console = make(out)
    console.starting()
    console.phase("loading weights")
    clock(1.5)
    console.phase("warming up")
    clock(0.5)
    console.serving()
    lines = out.getvalue().splitlines()
    assert "some/model" in lines[0]
    assert lines[1:3] == ["  loading weights: 1.5 s", "  warming up: 0.5 s"]
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_a_long_phase_prints_a_line_every_few_seconds(clock):
    out = io.StringIO()
    console = make(out)
    console.phase("loading weights")
    for _ in range(200):
        clock(0.1)
        console.tick()
    assert 3 <= len(out.getvalue().splitlines()) <= 4
    assert "loading weights ... 2 s" in out.getvalue()


def test_on_a_terminal_the_line_is_refreshed(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    console = make(out)
    console.phase("loading weights")
    for _ in range(20):
        clock(0.1)
        console.tick()
    assert out.getvalue().count("\r\x1b[K") == 21
    assert "\n" not in out.getvalue()


def test_ready_shows_a_command_that_works(clock):
    out = io.StringIO()
    console = make(out, model=Model(served_model_name=["alias", "other"]))
    clock(7)
    console.serving()
    text = out.getvalue()
    assert "V-Gate is ready on http://127.0.0.1:8000 after 7.0 s" in text
    body = text[text.index("-d '") + 4 : text.rindex("'\n")]
    assert json.loads(body)["model"] == "alias"


def test_json_logs_silence_it(clock):
    out = io.StringIO()
    console = make(out, logging=Logging(json_format=True))
    console.starting()
    console.phase("x")
    clock(10)
    console.tick()
    console.serving()
    console.show("z")
    assert out.getvalue() == ""


def test_the_dry_run_engine_is_named(clock):
    out = io.StringIO()
    make(out, backend="dry_run").starting()
    assert "dry-run engine" in out.getvalue()
    assert "some/model" not in out.getvalue()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("example.org", "http://example.org:8000"),
    ],
)
def test_the_url_can_be_opened_from_here(clock, host, url):
    assert make(io.StringIO(), server=Server(host=host)).url == url


def test_ticking_without_a_phase_shows_nothing(clock):
    out = io.StringIO()
    make(out).tick()
    assert out.getvalue() == ""
