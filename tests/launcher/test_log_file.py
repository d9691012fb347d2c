"""On a terminal the log goes to a file of bounded size, and what matters is shown as well."""

import errno
import logging
import os
import sys
import time

import pytest

from tests.launcher.screen import Terminal
from tests.small_disk import fill, small_disk
from vgate import log as logs
from vgate.config import Config
from vgate.config.schema import Logging, Server
from vgate.launcher.output import Output
from vgate.launcher.terminal import log_file as module
from vgate.launcher.terminal.log_file import LogFile, kept
from vgate.log import Log

PATIENCE_S = 30
WARNING = "2026-11-30 12:00:00.000 WARNING frontend-1  few files may be open allowed=128\n"
FOREIGN = "2026-11-30 12:00:00.000 WARNING engine:vllm  Triton is not installed\n"
INFO = "2026-11-30 12:00:00.000 INFO    frontend-1  request finished status=200\n"


@pytest.fixture
def shown():
    return []


@pytest.fixture
def log_file(tmp_path, shown):
    made = LogFile(tmp_path / "logs" / "vgate.log", shown.append)
    yield made
    made.end()


def test_all_lines_are_kept_and_our_warnings_are_shown(log_file, shown):
    traceback = "Traceback (most recent call last):\n  File x\n"
    log_file.pass_on((INFO + WARNING + FOREIGN + traceback).encode(), "engine")
    assert log_file.wait_written(PATIENCE_S)
    assert log_file.path.read_text() == INFO + WARNING + FOREIGN + traceback
    assert shown == [WARNING.strip()]


def test_what_the_launcher_prints_is_for_the_terminal(log_file, shown):
    log_file.write(INFO + "vgate: cannot listen\n")
    assert log_file.wait_written(PATIENCE_S)
    assert shown == ["vgate: cannot listen"]


def test_the_size_is_bounded(log_file, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    for number in range(300):
        log_file.write(f"2026-11-30 12:00:00.000 INFO    launcher  line number={number:03}\n")
        assert log_file.wait_written(PATIENCE_S)
    files = sorted(log_file.path.parent.iterdir())
    assert [file.name for file in files] == ["vgate.log", *(f"vgate.log.{n}" for n in range(1, 5))]
    assert all(file.stat().st_size <= 1100 for file in files)
    assert "number=299" in log_file.path.read_text() + files[1].read_text()
    assert oct(log_file.path.stat().st_mode & 0o777) == "0o600"


def test_a_next_start_appends(tmp_path):
    for text in ("one\n", "two\n"):
        made = LogFile(tmp_path / "x.log", lambda _: None)
        made.write(text)
        made.end()
    assert (tmp_path / "x.log").read_text() == "one\ntwo\n"


def test_a_directory_that_cannot_be_written_is_told_once(tmp_path, shown):
    (tmp_path / "logs").write_text("a file is in the way")
    made = LogFile(tmp_path / "logs" / "vgate.log", shown.append)
    for _ in range(3):
        made.pass_on((INFO + WARNING).encode(), "frontend-1")
        assert made.wait_written(PATIENCE_S)
    told = [line for line in shown if "can't be written" in line]
    assert len(told) == 1
    assert str(made.path) in told[0]
    assert "File exists" in told[0] or "Not a directory" in told[0]
    assert shown.count(WARNING.strip()) == 3
    # Once there is room, it goes on, and says what is missing.
    (tmp_path / "logs").unlink()
    made.pass_on(INFO.encode(), "frontend-1")
    made.end()
    text = made.path.read_text()
    assert "log lines were dropped" in text
    assert INFO in text


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, shown):
    with small_disk(tmp_path / "d", 64) as disk:
        fill(disk)
        made = LogFile(disk / "vgate.log", shown.append)
        for _ in range(3):
            made.pass_on(INFO.encode() * 1000, "frontend-1")
            assert made.wait_written(PATIENCE_S)
        assert len(shown) == 1
        assert "No space left on device" in shown[0]
        made.end()


@pytest.fixture
def root():
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], level = before
    logging.root.setLevel(level)


@pytest.mark.parametrize("json_format", [True, False])
def test_only_a_terminal_without_json_has_the_file(tmp_path, json_format, root):
    settings = Logging(json_format=json_format)
    config = Config(server=Server(state_dir=str(tmp_path / "state")), logging=settings)
    with Terminal() as terminal:
        output = Output(terminal.fd)
        before = sys.stderr
        with kept(config, output) as found:
            assert isinstance(found, LogFile) != json_format
            if not json_format:
                logs.configure("launcher", level="info", json_format=False)
                Log("vgate.x").info("something happens")
                Log("vgate.x").warning("something is wrong")
        assert sys.stderr is before
        output.end()
        terminal.close()
    if json_format:
        assert not (tmp_path / "state").exists()
    else:
        assert "something is wrong" in terminal.written
        assert "something happens" not in terminal.written
        text = config.server.log_path.read_text()
        assert "something happens" in text
        assert "something is wrong" in text


def test_no_terminal_no_file(tmp_path):
    reading, writing = os.pipe()
    output = Output(writing)
    with kept(Config(server=Server(state_dir=str(tmp_path / "state"))), output) as found:
        assert found is output
    with kept(Config(), None) as found:
        assert found is None
    os.close(reading)


def test_writing_never_waits(tmp_path, monkeypatch, shown):
    """The file is on a disk that hangs."""
    made = LogFile(tmp_path / "x.log", shown.append)

    def hang():
        time.sleep(PATIENCE_S)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(made, "_opened", hang)
    began = time.monotonic()
    for _ in range(100):
        made.pass_on(INFO.encode() * 1000, "frontend-1")
    assert time.monotonic() - began < PATIENCE_S / 2
