"""`vgate logs`: the end of the log, one request's lines, and new lines as they come."""

import argparse
import threading
from contextlib import closing
from itertools import islice

import pytest

from vgate.commands import logs
from vgate.commands.command import CommandError
from vgate.config import Config
from vgate.config.schema import Server


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "logs"
    made.mkdir()
    return made


@pytest.fixture
def show(tmp_path, capfdbinary):
    """Run the command; return the lines that it prints."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        logs.configure(parser)
        config = Config(server=Server(state_dir=str(tmp_path)))
        logs.run(parser.parse_args(arguments), config)
        return capfdbinary.readouterr().out.decode().splitlines()

    return run


def test_the_end_is_shown_over_several_files(folder, show):
    (folder / "vgate-8000.log.2").write_text("1\n2\n")
    (folder / "vgate-8000.log.1").write_text("3\n")
    (folder / "vgate-8000.log").write_text("4\n5\n")
    (folder / "vgate-8001.log").write_text("other\n")
    assert show("-n", "4") == ["2", "3", "4", "5"]
    assert show("-n", "0") == []
    (folder / "vgate-8000.log").write_text("".join(f"{number}\n" for number in range(100)))
    assert show() == [str(number) for number in range(60, 100)]


def test_a_requests_lines_are_all_shown_with_its_traceback(folder, show):
    lines = ["failed request_id=r1", "  Traceback", "  ValueError", "done request_id=r2"]
    (folder / "vgate-8000.log.1").write_text("began request_id=r1\n")
    (folder / "vgate-8000.log").write_text("\n".join(lines) + "\n" + "x\n" * 100)
    assert show("--request", "r1") == ["began request_id=r1", *lines[:3]]
    assert show("--request", "r1", "-n", "1") == ["  ValueError"]
    with pytest.raises(CommandError, match=r"nothing about r3 in .*/vgate-8000.log"):
        show("--request", "r3")


def test_new_lines_are_shown_over_the_change_of_the_file(folder, monkeypatch):
    log = folder / "vgate-8000.log"
    log.write_text("old\nha")
    monkeypatch.setattr(logs, "_POLL_S", 0.01)
    shown = []
    with log.open("rb") as file:
        file.read(4)

        def read():
            with closing(logs._new_lines(log, file)) as lines:
                shown.extend(islice(lines, 4))

        follow = threading.Thread(target=read, daemon=True)
        follow.start()
        with log.open("a") as writer:
            writer.write("lf\n")
            writer.flush()
            log.rename(folder / "vgate-8000.log.1")
            writer.write("last\n")
        log.write_text("first\nsecond\n")
        follow.join(30)
    assert shown == [b"half\n", b"last\n", b"first\n", b"second\n"]


def test_without_a_log_it_says_where_there_is_one(folder, show):
    with pytest.raises(CommandError, match=r"there is no log in .*/logs: .* `journalctl -u vgate`"):
        show()
    (folder / "vgate-8001.log").write_text("other\n")
    with pytest.raises(CommandError, match=r"no log of port 8000 in .*; .* for --port 8001"):
        show()
    (folder / "vgate-8000.log").mkdir()
    with pytest.raises(CommandError, match=r"cannot read .*vgate-8000.log: Is a directory"):
        show()
