"""``vgate keys``: its output, the file it writes, and concurrent writers."""

import argparse
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vgate.commands import keys
from vgate.config import Config
from vgate.config.schema import Security
from vgate.keys import ConfiguredKey, KeyRing, read_key_file

ROOT = Path(keys.__file__).parents[2]


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.jsonl"


@pytest.fixture
def vgate_keys(key_file, capsys):
    """Run the command on the key file; return status, standard output and standard error."""

    def run(*arguments, configured=str(key_file), api_keys=()):
        parser = argparse.ArgumentParser()
        keys.configure(parser)
        config = Config(security=Security(key_file=configured, api_keys=[*api_keys]))
        status = keys.run(parser.parse_args([*map(str, arguments)]), config)
        return status, *capsys.readouterr()

    return run


def test_a_name_of_the_configuration_is_not_taken_again(vgate_keys, key_file):
    configured = ConfiguredKey(name="team", key="secret")
    status, out, err = vgate_keys("add", "team", api_keys=[configured])
    assert (status, out) == (1, "")
    assert "security.api_keys has a key `team`: take another name" in err
    assert not key_file.exists()


def test_add_prints_the_key_once_and_keeps_its_hash(vgate_keys, key_file):
    status, out, err = vgate_keys(
        "add", "team a", "--rate-limit", 5, "--tokens-per-minute", 900, "--concurrent", 2,
        "--weight", 1.5, "--min-priority", -4, "--group", "team", "--admin",
        "--models", "m,org/x", "--expires-at", "2030-01-31T00:00:00+01:00",
        "--budget-tokens", 10, "--budget-period", "day",
    )  # fmt: skip
    secret = out.strip()
    assert status == 0
    assert out == f"{secret}\n"
    assert secret.startswith("vg-")
    assert "`team a`" in err
    assert secret not in err + key_file.read_text()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = KeyRing.build([], key_file).find(secret)
    assert (key.rate_limit, key.tokens_per_minute, key.concurrent, key.weight) == (5, 900, 2, 1.5)
    assert (key.min_priority, key.group, key.admin) == (-4, "team", True)
    assert (key.models, key.budget_tokens, key.budget_period) == (["m", "org/x"], 10, "day")
    assert key.expires_at == datetime(2030, 1, 30, 23, tzinfo=UTC)
    row = vgate_keys("list")[1].splitlines()[1].split()
    assert {"-4", "m,org/x", "10/day", "2030-01-31"} <= {*row}


def test_the_file_is_named_before_or_after_the_action(vgate_keys, tmp_path):
    other = tmp_path / "other.jsonl"
    assert vgate_keys("--key-file", other, "add", "one")[0] == 0
    assert vgate_keys("add", "two", "--key-file", other)[0] == 0
    assert [key.name for key in read_key_file(other)] == ["one", "two"]


def test_set_changes_what_is_given(vgate_keys, key_file):
    secret = vgate_keys("add", "a", "--rate-limit", 5, "--group", "g", "--admin")[1].strip()
    assert vgate_keys("set", "a", "--concurrent", 2, "--unset", "rate-limit")[0] == 0
    key = KeyRing.build([], key_file).find(secret)
    assert (key.rate_limit, key.concurrent, key.group, key.admin) == (None, 2, "g", True)
    vgate_keys("set", "a", "--unset", "admin", "--unset", "group")
    key = KeyRing.build([], key_file).find(secret)
    assert (key.concurrent, key.group, key.admin) == (2, None, False)
    for arguments, words in (
        (("a",), "nothing to change"),
        (("b", "--concurrent", 1), "no key `b`"),
        (("a", "--concurrent", 0), "`concurrent` must be"),
        (("a", "--expires-at", "2030-01-01"), "`expires_at` must be"),
    ):
        status, _, err = vgate_keys("set", *arguments)
        assert (status, words in err) == (1, True), err


def test_list_shows_limits_and_no_key(vgate_keys, key_file):
    secrets = [vgate_keys("add", name)[1].strip() for name in ("one", "two")]
    status, out, _ = vgate_keys("list")
    header, first, second = out.splitlines()
    assert status == 0
    assert header.split()[0] == "NAME"
    for secret, row, key in zip(secrets, (first, second), read_key_file(key_file), strict=True):
        assert row.startswith(key.name)
        assert row.endswith(f" {key.sha256[:8]}")
        assert key.created.removesuffix("Z").replace("T", " ") in row
        assert "default" in row
        assert key.sha256[:9] not in row
        assert secret not in out


def test_list_shows_names_that_do_not_reach_the_terminal_as_commands(vgate_keys):
    vgate_keys("add", "one\u202e", "--models", "\x1b[2J", "--group", "g\u2028")
    assert vgate_keys("list")[1].count("\ufffd") == 3


def test_rotate_keeps_name_and_limits(vgate_keys, key_file):
    old = vgate_keys("add", "one", "--rate-limit", 5)[1].strip()
    vgate_keys("add", "two")
    status, out, _ = vgate_keys("rotate", "one")
    ring = KeyRing.build([], key_file)
    assert status == 0
    assert ring.find(old) is None
    assert (ring.find(out.strip()).name, ring.find(out.strip()).rate_limit) == ("one", 5)
    assert [key.name for key in ring] == ["one", "two"]


def test_revoke_removes_one_key_and_leaves_comments(vgate_keys, key_file):
    vgate_keys("add", "one")
    with key_file.open("a") as file:
        file.write("# of the other team\n")
    vgate_keys("add", "two")
    status, out, err = vgate_keys("revoke", "one")
    assert (status, out) == (0, "")
    assert "revoked" in err
    assert [key.name for key in read_key_file(key_file)] == ["two"]
    assert "# of the other team\n" in key_file.read_text()
    assert not list(key_file.parent.glob(".*draft"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "one"], "there is a key `one` already"),
        (["revoke", "nobody"], "there is no key `nobody`"),
        (["rotate", "nobody"], "there are: `one`"),
        (["add", "x", "--rate-limit", "0"], "`rate_limit` must be an integer >= 1, got 0"),
        (["add", "x", "--weight", "-1"], "`weight` must be"),
        (["add", "x", "--rate-limit", "1000001"], "`rate_limit` must be an integer <= 1000000"),
        (["add", "a\nb"], "`name` must be"),
        (["add", "\udcff"], "`name` must be"),  # an argument that is not valid UTF-8
    ],
)
def test_mistakes_change_nothing(vgate_keys, key_file, arguments, message):
    vgate_keys("add", "one")
    before = key_file.read_bytes()
    status, out, err = vgate_keys(*arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert key_file.read_bytes() == before


def test_a_broken_file_is_not_overwritten(vgate_keys, key_file):
    key_file.write_text("broken\n")
    status, _, err = vgate_keys("add", "one")
    assert status == 1
    assert "line 1" in err
    assert key_file.read_text() == "broken\n"


def test_a_missing_folder_is_an_error(vgate_keys, key_file):
    status, _, err = vgate_keys("--key-file", key_file / "x" / "y", "add", "one")
    assert status == 1
    assert "cannot write it: No such file" in err


def test_without_a_key_file_it_says_what_to_set(vgate_keys):
    status, _, err = vgate_keys("list", configured=None)
    assert status == 2
    assert "security.key_file" in err


def test_the_target_of_a_link_is_replaced(vgate_keys, key_file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(key_file)
    vgate_keys("--key-file", link, "add", "one")
    assert link.is_symlink()
    assert [key.name for key in read_key_file(key_file)] == ["one"]


def test_concurrent_writers_lose_nothing(key_file):
    program = (
        "import sys; from pathlib import Path; from vgate.keys import ApiKey;"
        "from vgate.key_file import KeyFile;"
        "[KeyFile(Path(sys.argv[1])).add(ApiKey(f'{sys.argv[2]}-{n}', '0' * 64))"
        " for n in range(10)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(key_file), str(n)], cwd=ROOT)
        for n in range(4)
    ]
    assert [writer.wait(timeout=30) for writer in writers] == [0] * 4
    assert len(read_key_file(key_file)) == 40
