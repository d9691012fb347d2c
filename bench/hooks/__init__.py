"""Changes measured programs, in their own processes, as these load their modules."""

import os
from pathlib import Path


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Return variables for a process: `variables`, and a PYTHONPATH with which their hooks run.

    The hooks run in the process and in its children.
    """
    path = filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
    return {**variables, "PYTHONPATH": os.pathsep.join(path)}
