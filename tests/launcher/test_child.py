"""A child process gets the launcher's environment and its own variables."""

import json
import os
import time
from pathlib import Path

import pytest

from vgate.launcher.child import Child, RestartPolicy

WRITE = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


def run(path: Path, environment: dict[str, str] | None) -> dict[str, str]:
    """Run a child to its end; return the environment that it had."""
    child = Child("c", ["-c", WRITE, str(path)], RestartPolicy(0, 1.0), environment)
    child.start(time.monotonic())
    assert child.wait(30)
    found: dict[str, str] = json.loads(path.read_text())
    return found


@pytest.fixture(autouse=True)
def inherited(monkeypatch):
    monkeypatch.setenv("TEST_INHERITED", "launcher")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")


def test_it_inherits_the_launchers_variables(tmp_path):
    found = run(tmp_path / "env", None)
    assert found["TEST_INHERITED"] == "launcher"
    assert found["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_its_own_variables_override_the_launchers(tmp_path):
    found = run(tmp_path / "env", {"CUDA_VISIBLE_DEVICES": "1"})
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert found["TEST_INHERITED"] == "launcher"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("ready", [False, True])
def test_an_instruction_that_the_cpu_lacks_is_not_tried_again(ready):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    child = Child("c", ["-c", program], RestartPolicy(5, 60.0))
    child.start(time.monotonic())
    child.ready = ready
    deadline = time.monotonic() + 60
    while (cause := child.died(time.monotonic())) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cause is not None
    assert "killed by SIGILL: the CPU lacks an instruction" in cause
    assert "model.dtype: float32" in cause
    # One that served is: another request may not meet it.
    assert child.permanent is not ready
    assert (child.restart_at is None) is not ready
