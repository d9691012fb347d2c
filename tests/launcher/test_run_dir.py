"""The run directory belongs to one instance, and no other files are touched."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_disk import small_disk
from vgate.config.runtime import default_run_dir
from vgate.launcher import run_dir as module
from vgate.launcher.run_dir import RunDir, StartError

HOLDER = """
import sys
from vgate.launcher.run_dir import RunDir
held = RunDir(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_only_its_user_can_use_it(path):
    held = RunDir(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    held.remove()
    assert not path.exists()


def test_parents_are_made(tmp_path):
    RunDir(str(tmp_path / "a" / "b")).remove()


def test_an_existing_one_is_closed_to_others(path):
    path.mkdir(mode=0o755)
    RunDir(str(path)).remove()
    path.mkdir(mode=0o777)
    held = RunDir(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    held.remove()


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = RunDir("run")
    assert held.path == tmp_path / "run"
    held.remove()


def test_files_of_a_killed_instance_are_deleted(path):
    path.mkdir()
    leftovers = ["engine-0.sock", "control.sock", "runtime.json"]
    for name in leftovers:
        (path / name).write_text("old")
    held = RunDir(str(path))
    assert not any((path / name).exists() for name in leftovers)
    held.remove()


def test_other_files_survive(path):
    # The directory existed before, so only our own files may be deleted.
    (path / "photos").mkdir(parents=True)
    (path / "photos" / "me.jpg").write_text("precious")
    (path / "notes.txt").write_text("precious")
    held = RunDir(str(path))
    (path / "engine-0.sock").write_text("")
    held.remove()
    assert (path / "notes.txt").read_text() == "precious"
    assert (path / "photos" / "me.jpg").read_text() == "precious"
    assert not (path / "engine-0.sock").exists()


def test_a_second_instance_is_refused_and_deletes_nothing(path):
    held = RunDir(str(path))
    (path / "engine-0.sock").write_text("in use")
    with pytest.raises(StartError, match="another V-Gate instance"):
        RunDir(str(path))
    assert (path / "engine-0.sock").read_text() == "in use"
    held.remove()
    RunDir(str(path)).remove()


def test_the_lock_ends_with_its_process(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartError, match="another V-Gate instance"):
            RunDir(str(path))
        holder.kill()
        holder.wait(30)
        RunDir(str(path)).remove()
    finally:
        holder.kill()
        holder.communicate()


def test_a_directory_of_another_user_is_refused(path, monkeypatch):
    path.mkdir(mode=0o755)
    monkeypatch.setattr(module.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(StartError, match="not a directory of this user"):
        RunDir(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_symbolic_link_is_refused(path, tmp_path):
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    path.symlink_to(target)
    with pytest.raises(StartError, match="not a directory of this user"):
        RunDir(str(path))
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file"])
def test_a_path_that_cannot_be_a_directory_is_refused(path, tmp_path, kind):
    if kind == "file":
        path.write_text("")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / "f").write_text("")
        path = tmp_path / "f" / "run"
    with pytest.raises(StartError, match="run directory"):
        RunDir(str(path))


def test_a_lock_that_cannot_be_opened_is_reported(path):
    (path / "lock").mkdir(parents=True)
    with pytest.raises(StartError):
        RunDir(str(path))


def test_a_linked_lock_is_refused_and_its_target_kept(path, tmp_path):
    path.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("text")
    (path / "lock").symlink_to(precious)
    with pytest.raises(StartError, match="is a symbolic link"):
        RunDir(str(path))
    assert precious.read_text() == "text"


@pytest.mark.parametrize("name", ["runtime.json", "control.sock", "metrics", "limits"])
def test_what_is_not_ours_is_refused_and_kept(path, name):
    (path / name).mkdir(parents=True)
    (path / name / "mine").write_text("precious")
    with pytest.raises(StartError, match=f"{name}.*move it away"):
        RunDir(str(path))
    assert (path / name / "mine").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_in_the_place_of_a_directory_is_refused(path, tmp_path, kind):
    path.mkdir()
    (path / "lock").touch()  # as a killed instance leaves it
    if kind == "link":
        (path / "metrics").symlink_to(tmp_path)
    else:
        (path / "metrics").write_text("precious")
    with pytest.raises(StartError, match="did not make"):
        RunDir(str(path))
    assert (path / "metrics").is_symlink() or (path / "metrics").read_text() == "precious"


def test_a_read_only_file_system_is_reported(tmp_path):
    with small_disk(tmp_path / "d", 64) as disk:
        (disk / "run").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for path in (disk / "run", disk / "new"):
            with pytest.raises(StartError, match=r"Read-only file system; set server\.run_dir"):
                RunDir(str(path))


def test_removing_twice_is_harmless(path):
    held = RunDir(str(path))
    held.remove()
    held.remove()


def test_the_default_is_short_and_depends_on_port_and_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_run_dir(8000) == f"{tmp_path}/vgate-8000"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    fallback = default_run_dir(8000)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_run_dir(8000) == fallback
    assert fallback.endswith(f"vgate-{os.getuid()}-8000")
    assert default_run_dir(8001) != fallback
