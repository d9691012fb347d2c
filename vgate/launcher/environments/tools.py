"""Finds what makes environments: a Python interpreter, and uv with the indexes that pip has."""

from __future__ import annotations

import ast
import glob
import os
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Settings of pip, which uv doesn't read, and the variables of uv that mean the same.
UV_VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
}


def find_python(versions: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the running CPython if it has one of these versions, else the first one installed.

    Args:
        versions: Such as "3.11", best first.
        environ: The process environment, for PATH and pyenv's folder.
    """
    if running_version() in versions and sys.implementation.name == "cpython":
        return sys.executable
    pyenv = environ.get("PYENV_ROOT") or os.path.join(environ.get("HOME", ""), ".pyenv")
    for version in versions:
        name = "python" + version
        paths = [os.path.join(d, name) for d in environ.get("PATH", os.defpath).split(os.pathsep)]
        paths += sorted(glob.glob(os.path.join(pyenv, "versions", version + "*", "bin", name)))
        for path in paths:
            # pyenv puts a shim on PATH for every version that it has ever seen; most only fail.
            if os.access(path, os.X_OK) and version_of(path) == version:
                return path
    return None


def running_version() -> str:
    """Return the version, such as "3.11", of the running Python."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def version_of(path: str) -> str | None:
    """Return the version, such as "3.11", of a CPython interpreter, None if it doesn't start."""
    try:
        asked = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = asked.stdout.decode("ascii", "replace").split()
    cpython = len(words) == 2 and words[0] == "Python"  # PyPy prints more
    return ".".join(words[1].split(".")[:2]) if cpython and not asked.returncode else None


def uv_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with pip's settings as uv's; variables of uv's that are set stay."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, check=False, env=dict(environ), text=True)
    # pip takes the best version of all its indexes, uv by default the best of the first.
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global.", "install.", ":env:."):
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            variable = UV_VARIABLES.get(key[len(section) :])
            if variable and key.startswith(section):
                separator = "," if variable == "UV_FIND_LINKS" else " "
                found[variable] = separator.join(str(ast.literal_eval(value)).split())
    return {**found, **environ}
