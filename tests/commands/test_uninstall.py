"""`vgate uninstall`: removes what V-Gate has made, after a question, and nothing else."""

import argparse
import fcntl

import pytest

from vgate.commands.command import CommandError
from vgate.commands.machine import uninstall
from vgate.commands.machine.systemd import MADE_BY
from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Server


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which V-Gate has run, and files of others beside its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setattr(uninstall, "_UNITS", (str(tmp_path / "unit"), "~/other-unit"))
    monkeypatch.setattr(uninstall, "clone", lambda: tmp_path / "clone")
    for path, text in (
        ("clone/.venv/light/x", "x" * 2_000_000),
        ("clone/config.yaml", ""),
        ("state/usage.db-wal", ""),
        ("state/logs/vgate-8000.log", ""),
        ("state/model", "qwen3:8b\n"),
        ("run/vgate-8000/lock", ""),
        ("hf/hub/models--org--name/x", ""),
        ("hf/hub/models--org--other/x", ""),
        ("unit", MADE_BY),
        ("other-unit", "[Unit]"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.fixture
def vgate_uninstall(machine, capsys):
    """Run the command; return its status, what it has printed, and the files that are left."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        uninstall.configure(parser)
        server = Server(state_dir=str(machine / "state"))
        config = Config(server=server, model=Model(model_id="org/name"))
        status = uninstall.run(parser.parse_args(arguments), config)
        left = {str(path.relative_to(machine)) for path in machine.rglob("*") if path.is_file()}
        return status, capsys.readouterr().out, left

    return run


OTHERS = {
    "clone/config.yaml", "hf/hub/models--org--name/x", "hf/hub/models--org--other/x", "other-unit",
}  # fmt: skip


def test_all_of_it_is_listed_and_removed(machine, vgate_uninstall):
    status, out, left = vgate_uninstall("--yes")
    assert (status, left) == (0, OTHERS)
    assert f"  {machine}/clone/.venv (2 MB)\n" in out
    assert f"The clone and its configuration stay: rm -r {machine}/clone" in out
    assert not (machine / "state").exists()
    assert vgate_uninstall("--yes")[1] == "There is nothing to remove.\n"


def test_models_only_where_asked_for(vgate_uninstall):
    assert vgate_uninstall("--yes", "--models")[2] == OTHERS - {"hf/hub/models--org--name/x"}


def test_the_model_that_was_chosen_goes_with_the_configured_ones(machine, vgate_uninstall):
    chosen = machine / "hf/hub/models--Qwen--Qwen3-8B-AWQ"
    chosen.mkdir()
    assert f"  {chosen}" in vgate_uninstall("--yes", "--models")[1]
    assert not chosen.exists()


def test_files_of_others_stay_in_the_state_directory(machine, vgate_uninstall):
    (machine / "state/mine").touch()
    assert vgate_uninstall("--yes")[2] == OTHERS | {"state/mine"}


@pytest.mark.parametrize(("answer", "removed"), [("y", True), ("", False), ("no", False)])
def test_it_asks(vgate_uninstall, monkeypatch, answer, removed):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _question: answer)
    status, out, left = vgate_uninstall()
    assert (left == OTHERS) == removed
    assert ("Nothing was removed." in out) != removed
    assert status == (0 if removed else 1)


def test_without_a_terminal_nothing_is_removed_unasked(vgate_uninstall, machine, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(CommandError, match="there is no terminal to ask: --yes"):
        vgate_uninstall()
    assert (machine / "unit").exists()


def test_a_running_instance_is_left_alone(vgate_uninstall, machine):
    with (machine / "run/vgate-8000/lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match=r"an instance runs in .*vgate-8000: stop it first"):
            vgate_uninstall("--yes")
    assert (machine / "unit").exists()


def test_a_link_is_removed_and_not_what_it_leads_to(vgate_uninstall, machine):
    (machine / "precious").mkdir()
    (machine / "precious/file").touch()
    (machine / "state/memory").symlink_to(machine / "precious")
    assert vgate_uninstall("--yes")[2] == OTHERS | {"precious/file"}
