"""Chooses the environment for a command line and starts the launcher in it."""

from __future__ import annotations

import os
import sys

from vgate.launcher.environments.model import Environment, EnvironmentProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# With one of these arguments no model runs, so no engine is needed.
LIGHT_ARGUMENTS = frozenset(("check", "keys", "reload", "--dry-run", "--help", "-h", "--version"))


def start(clone: str, arguments: Sequence[str]) -> None:
    """Replace this process by the launcher, in the environment that the arguments need."""
    open_missing_stdin()
    try:
        python = chosen_python(os.environ)
        if python is None:
            environment = Environment(clone, choose_environment(arguments, os.environ))
            python = environment.python
            if not environment.is_current():
                from vgate.launcher.environments.make import prepare

                prepare(environment)
    except EnvironmentProblem as problem:
        sys.exit(f"vgate: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = clone + os.pathsep + others if others else clone
    os.execv(python, [python, "-m", "vgate.launcher", *arguments])  # noqa: S606 - no shell wanted


def chosen_python(environ: Mapping[str, str]) -> str | None:
    """Return the path of the interpreter that VGATE_PYTHON names."""
    wanted = environ.get("VGATE_PYTHON")
    if not wanted:
        return None
    import shutil

    path = shutil.which(wanted, path=environ.get("PATH"))
    if path is None:
        raise EnvironmentProblem(f"VGATE_PYTHON={wanted} is not an executable file")
    return os.path.abspath(path)


def choose_environment(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the name of the environment that this start needs."""
    if dry_run_is_set(environ) or not LIGHT_ARGUMENTS.isdisjoint(arguments):
        return "light"
    return "vllm-cuda" if gpu_is_visible(environ) else "vllm-cpu"


def dry_run_is_set(environ: Mapping[str, str]) -> bool:
    """Whether VGATE_DRY_RUN asks for the simulated engine."""
    return environ.get("VGATE_DRY_RUN", "").strip().lower() in ("1", "true", "yes", "on")


def gpu_is_visible(environ: Mapping[str, str], device: str = "/dev/nvidia0") -> bool:
    """Whether an NVIDIA GPU can be used here."""
    # CUDA's way to hide GPUs from a program.
    if environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if os.path.exists(device):
        return True
    # WSL 2 has no such file, and neither has a container with another GPU than the first.
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU" in listed.stdout


def open_missing_stdin() -> None:
    """Open /dev/null if standard input is closed, or child processes would read another file."""
    try:
        os.fstat(0)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
