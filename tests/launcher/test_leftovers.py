"""What a killed engine left is removed, and nothing else."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from tests.e2e.instance import wait_until
from vgate.config import Config, EngineSpec, Runtime
from vgate.launcher import leftovers
from vgate.launcher.child import EngineChild
from vgate.launcher.run_dir import RunDir

# Its own group, as an engine; a worker of it maps shared memory that it made.
ENGINE = """
import subprocess, sys, time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=1000)
worker = '''
import sys, time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(sys.argv[1])
print(memory.name, flush=True)
time.sleep(600)
'''
subprocess.run([sys.executable, "-c", worker, memory.name])
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_each_process_has_a_temporary_directory_that_ends_with_it(temporary, tmp_path):
    spec = EngineSpec(model=Config().model.name, address="ipc://a")
    runtime = Runtime(Config(), "dry_run", str(tmp_path), [spec])
    engine = EngineChild(runtime, 0)
    write = "import tempfile; open(tempfile.gettempdir() + '/vllm_dist', 'w'); raise SystemExit"
    engine._command = ["-c", f"{write}(7)"]
    for _ in range(2):
        engine.start(0.0)
        (made,) = temporary.iterdir()
        assert (tmp_path / "engine-0.tmp").readlink() == made
        wait_until(lambda: engine._process.poll() is not None, 30, "it ends")
        assert (made / "vllm_dist").exists()
        assert engine.died(0.0) == "exit status 7"
        assert not list(temporary.iterdir())


def test_a_killed_launchers_engines_leave_nothing_after_the_next_start(temporary, tmp_path):
    run_dir = tmp_path / "run"
    held = RunDir(str(run_dir))
    made = Path(leftovers.make_temporary(leftovers.link_of(str(run_dir), "engine-0")))
    (made / "file").touch()
    held._lock.close()  # as by a kill
    RunDir(str(run_dir)).remove()
    assert not list(temporary.iterdir())
    assert not run_dir.exists()


@pytest.mark.parametrize("kind", ["another name", "a link", "a file"])
def test_what_is_not_ours_stays(tmp_path, kind):
    target = tmp_path / ("photos" if kind == "another name" else "vgate-x")
    (tmp_path / "precious").mkdir()
    if kind == "another name":
        target.mkdir()
    elif kind == "a link":
        target.symlink_to(tmp_path / "precious")
    else:
        target.touch()
    link = tmp_path / "engine-0.tmp"
    link.symlink_to(target)
    leftovers.remove_temporary(link)
    assert target.exists()
    assert (tmp_path / "precious").exists()


def test_workers_with_a_group_of_their_own_are_found():
    """As Ray's: their session is the engine's."""
    began = time.time() - 1
    starts = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {ENGINE!r}], process_group=0)\n"
        "worker.wait()\n"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    found: set[Path] = set()
    try:
        assert engine.stdout is not None
        path = Path("/dev/shm", engine.stdout.readline().strip())
        found = leftovers.shared_memory_of(engine.pid, began)
        assert found == {path}
    finally:
        for process in psutil.Process(engine.pid).children(recursive=True):
            process.kill()
        engine.communicate()
        leftovers.remove_shared_memory(found)


def test_shared_memory_of_a_killed_group_is_removed():
    began = time.time() - 1
    older = SharedMemory(create=True, size=100)
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert engine.stdout is not None
        path = Path("/dev/shm", engine.stdout.readline().strip())
        assert leftovers.shared_memory_of(engine.pid, time.time() + 60) == set()
        found = leftovers.shared_memory_of(engine.pid, began)
        assert found == {path}
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait(30)
        assert path.exists()
        leftovers.remove_shared_memory(found)
        assert not path.exists()
        assert Path("/dev/shm", older.name).exists()
    finally:
        engine.kill()
        engine.communicate()
        older.close()
        older.unlink()
