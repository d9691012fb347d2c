"""How a phase of work looks on a terminal and in a log."""

import io

import pytest

from vgate.launcher import progress
from vgate.launcher.progress import Phase


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_few_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Phase("working", out) as phase:
        for now[0] in range(12):
            phase.tick()
    assert out.getvalue().splitlines() == [
        "  working ... 2 s",
        "  working ... 7 s",
        "  working: 11.0 s",
    ]


def test_a_terminal_gets_one_line_with_the_outcome(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with pytest.raises(KeyError), Phase("working", out):
        raise KeyError
    assert out.getvalue() == ("\r\x1b[K  working ... 0 s\r\x1b[K  working: failed after 0.0 s\n")
