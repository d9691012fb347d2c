"""`vgate service`: the unit as systemd reads it, and what is written, deleted and refused."""

import argparse
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from vgate.commands.command import CommandError
from vgate.commands.machine import service
from vgate.commands.machine.systemd import MADE_BY, Unit, notify, quoted, quoted_argument
from vgate.config import Config
from vgate.config.schema import Server

ME = pwd.getpwuid(os.getuid()).pw_name
ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The place of the system's units; no systemctl is found, and no setting."""
    monkeypatch.setattr(service, "_SYSTEM", tmp_path / "system")
    monkeypatch.setattr(service.shutil, "which", lambda _name: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("VGATE_") or name == "SUDO_USER":
            monkeypatch.delenv(name)
    return tmp_path / "system" / "vgate.service"


@pytest.fixture
def vgate_service(capsys):
    """Run the command; return its status and what it has printed."""

    def run(*arguments, **server):
        parser = argparse.ArgumentParser()
        service.configure(parser)
        status = service.run(parser.parse_args(arguments), Config(server=Server(**server)))
        return status, *capsys.readouterr()

    return run


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("user", ["", ME])
def test_systemd_reads_the_unit(tmp_path, user):
    folder = tmp_path / "a b 100%i"
    folder.mkdir()
    start = folder / "vgate"
    start.write_text("#!/bin/sh\n")
    start.chmod(0o755)
    unit = Unit(
        name="vgate", program=start, config=folder / 'a "$c".yaml', user=user, folder=folder,
        port=80, drain_s=30, writable=[folder, tmp_path], variables={"HF_HOME": "/x y"},
    )  # fmt: skip
    path = tmp_path / "vgate.service"
    path.write_text(unit.text())
    command = [ANALYZE, *(["--user"] if not user else []), "verify", str(path)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_words_are_quoted_for_systemd():
    assert quoted("/opt/vgate") == "/opt/vgate"
    assert quoted('/a b/"c"/100%') == '"/a b/\\"c\\"/100%%"'
    assert quoted_argument("/a$b") == '"/a$$b"'


def test_the_systems_unit_is_hardened_and_follows_the_configuration(place, vgate_service):
    (place.parents[1] / "config.yaml").write_text("{}")
    status, text, _ = vgate_service("install", "--print", "--as", ME, port=443, drain_timeout_s=90)
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == MADE_BY
    assert f"ExecStart={service.program()} --config {place.parents[1]}/config.yaml" in lines
    assert f"User={ME}" in lines
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in lines
    assert "TimeoutStopSec=120" in lines
    assert "ProtectSystem=strict" in lines
    assert f"ReadWritePaths=-{service.clone()}/.venv" in lines
    # They would take the GPU away.
    assert not any(line.startswith(("ProtectClock", "PrivateDevices")) for line in lines)
    assert not place.exists()


def test_install_writes_the_unit_and_says_what_to_run(place, vgate_service, monkeypatch):
    monkeypatch.setenv("VGATE_MODEL__MODEL_ID", "x")
    status, out, err = vgate_service("install", "--as", ME)
    assert (status, out) == (0, "")
    assert f"{place} is written" in err
    assert "systemctl daemon-reload && systemctl enable --now vgate" in err
    assert "VGATE_MODEL__MODEL_ID is set here, but not for the service" in err
    assert "AmbientCapabilities=\n" in place.read_text()
    assert vgate_service("install", "--as", ME)[0] == 0
    assert "systemctl daemon-reload" in vgate_service("remove")[2]
    assert not place.exists()
    with pytest.raises(CommandError, match=r"there is no .*vgate\.service"):
        vgate_service("remove")
    assert vgate_service("status")[0] == 1


def test_environments_of_somebody_else_are_told(place, vgate_service, monkeypatch, tmp_path):
    monkeypatch.setattr(service, "clone", lambda: tmp_path)
    missing = f"can't make environments in {tmp_path}/.venv: run as root `mkdir -p"
    assert missing in vgate_service("install", "--as", ME)[2]
    (tmp_path / ".venv").mkdir()
    assert missing not in vgate_service("install", "--as", ME)[2]


def test_a_unit_of_a_user_is_in_its_home(place, vgate_service):
    _, _, err = vgate_service("install", "--user")
    path = place.parents[1] / ".config/systemd/user/vgate.service"
    assert "User=" not in path.read_text()
    assert "WantedBy=default.target" in path.read_text()
    assert "systemctl --user daemon-reload && systemctl --user enable --now vgate" in err


def test_a_unit_of_somebody_else_is_left_alone(place, vgate_service):
    place.parent.mkdir()
    place.write_text("[Unit]\n")
    for action in (("install", "--as", ME), ("remove",)):
        with pytest.raises(CommandError, match="was not written by this command"):
            vgate_service(*action)
    assert place.read_text() == "[Unit]\n"


def test_who_it_runs_as_is_never_root_unasked(place, vgate_service, monkeypatch):
    root = pwd.getpwnam("root")
    monkeypatch.setattr(service.pwd, "getpwuid", lambda _uid: root)
    with pytest.raises(CommandError, match="belong to root: name an unprivileged account"):
        vgate_service("install", "--print")
    assert "User=root" in vgate_service("install", "--print", "--as", "root")[1]
    with pytest.raises(CommandError, match="`nobody-here` is no account here"):
        vgate_service("install", "--print", "--as", "nobody-here")
    monkeypatch.setenv("SUDO_USER", ME)
    assert f"User={ME}" in vgate_service("install", "--print")[1]


def test_where_it_may_not_be_written_sudo_is_named(place, vgate_service, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(CommandError, match="run it with sudo, or use --user"):
        vgate_service("install", "--as", ME)


@pytest.mark.parametrize("abstract", [False, True])
def test_who_started_it_is_told(tmp_path, monkeypatch, abstract):
    name = f"vgate-test-{os.getpid()}"
    path = f"\0{name}" if abstract else str(tmp_path / "s")
    notify("READY=1")  # to nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path.replace("\0", "@"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("STOPPING=1")
