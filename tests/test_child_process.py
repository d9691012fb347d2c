"""How an engine and a frontend begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vgate.child_process import begin

PROGRAM = """
import os, sys
directory, parent = sys.argv[1], sys.argv[2]
os.chdir(directory)
os.rmdir(directory)
sys.argv[1:] = ["--run-dir", "/run", "--parent", parent, "--number", "3"]
from vgate.child_process import begin
print(begin("test", "number"), os.getcwd())
"""
ROOT = Path(__file__).parents[1]


def test_it_needs_no_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(gone), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "('/run', [3]) /\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--run-dir", "/run", "--parent", "one"]])
def test_others_than_the_launcher_are_told_what_it_takes(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["test", *arguments])
    with pytest.raises(SystemExit, match="2"):
        begin("test", "number")
    assert "--run-dir DIRECTORY --parent NUMBER --number NUMBER" in capsys.readouterr().err
