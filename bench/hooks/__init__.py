"""Changes of programs that are measured, made in their processes when they load a module."""

import os
from pathlib import Path


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Return variables with which the hooks that they name are in a process and its children."""
    path = filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
    return {**variables, "PYTHONPATH": os.pathsep.join(path)}
