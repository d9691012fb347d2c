"""``vgate usage``: its three forms, its filters, and without a server."""

import argparse
import csv
import io
import json
from datetime import date

import pytest

from vgate.commands import usage
from vgate.commands.command import CommandError
from vgate.config import Config
from vgate.config.schema import Server
from vgate.usage import CountsFile, Folder, Used


@pytest.fixture
def state(tmp_path):
    counts = CountsFile(tmp_path / "usage")
    for key, model, day in (("a", "m", 30), ("a", "org/n", 31), ("b", "m", 31), ("", "m", 31)):
        counts.add(key, model, date(2030, 1, day), Used(1, 1000, 4, 200, 5, 1))
        Folder(tmp_path).fold()
    counts.close()
    return tmp_path


@pytest.fixture
def vgate_usage(state, capsys):
    def run(*arguments):
        parser = argparse.ArgumentParser()
        usage.configure(parser)
        config = Config(server=Server(state_dir=str(state)))
        usage.run(parser.parse_args(arguments), config)
        return capsys.readouterr()

    return run


def test_a_table_of_the_keys(vgate_usage):
    lines = [line.split() for line in vgate_usage().out.splitlines()]
    assert lines == [
        ["KEY", "REQUESTS", "PROMPT", "CACHED", "COMPLETION", "REASONING", "ERRORS"],
        ["-", "1", "1,000", "4", "200", "5", "1"],
        ["a", "2", "2,000", "8", "400", "10", "2"],
        ["b", "1", "1,000", "4", "200", "5", "1"],
        ["total", "4", "4,000", "16", "800", "20", "4"],
    ]


def test_names_do_not_reach_the_terminal_as_commands(vgate_usage, state):
    counts = CountsFile(state / "usage")
    counts.add("c\n\u202e", "\x1b[2J", date(2030, 1, 30), Used(1))
    counts.close()
    *_, row, _ = vgate_usage("--by", "key,model").out.splitlines()
    assert row.split()[:2] == ["c\ufffd\ufffd", "\ufffd[2J"]


def test_csv_and_json_have_the_same(vgate_usage):
    arguments = "--by", "day,model", "--since", "2030-01-31", "--until", "2030-01-31"
    rows = list(csv.DictReader(io.StringIO(vgate_usage(*arguments, "--csv").out)))
    data = json.loads(vgate_usage(*arguments, "--json").out)["data"]
    assert [(row["model"], row["day"], row["requests"]) for row in rows] == [
        ("m", "2030-01-31", "2"),
        ("org/n", "2030-01-31", "1"),
    ]
    assert [{k: str(v) for k, v in row.items() if v is not None} for row in data] == rows


def test_one_key(vgate_usage):
    data = json.loads(vgate_usage("--by", "key", "--key", "b", "--json").out)["data"]
    assert [row["key"] for row in data] == ["b"]
    assert "nothing was used" in vgate_usage("--key", "nobody").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "keys"), "`keys` is not one of key, model, day"),
        (("--since", "yesterday"), "not a day such as"),
        (("--csv", "--json"), "not allowed with"),
    ],
)
def test_a_wrong_argument(vgate_usage, capsys, arguments, words):
    with pytest.raises(SystemExit):
        vgate_usage(*arguments)
    assert words in capsys.readouterr().err


def test_a_ledger_that_can_not_be_read(vgate_usage, state):
    (state / "usage.db").write_bytes(b"no database" * 99)
    with pytest.raises(CommandError, match="not a database"):
        vgate_usage()


def test_a_directory_that_can_not_be_written(vgate_usage, state):
    Folder(state).fold()
    state.chmod(0o500)
    try:
        assert "2,000" in vgate_usage().out
    finally:
        state.chmod(0o700)
