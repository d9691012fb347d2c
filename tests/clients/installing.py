"""Installs the pinned programs that tests/clients runs; `bin/test --clients` calls it.

Each Python program has an environment of its own, `.venv/client-NAME`, because their requirements
differ.
"""

from __future__ import annotations

from pathlib import Path

from vgate.launcher.environments.make import prepare
from vgate.launcher.environments.model import ENVIRONMENTS, Environment, EnvironmentProblem

CLONE = Path(__file__).parents[2]
REQUIREMENTS = CLONE / "tests" / "clients" / "requirements"
JAVASCRIPT = CLONE / "tests" / "clients" / "javascript"
# The CPU build of PyTorch that two of them are locked with is for one Python.
PYTHONS = ("3.11",)


def environment_of(program: str) -> Environment:
    """Return the environment of a Python program, made or not."""
    name = f"client-{program}"
    ENVIRONMENTS[name] = ((), PYTHONS)
    return Environment(str(CLONE), name, [str(REQUIREMENTS / f"{program}.txt")])


def install_python_programs() -> dict[str, str]:
    """Install what can be installed; return why, by program, for what can't."""
    problems = {}
    for lock in sorted(REQUIREMENTS.glob("*.txt")):
        try:
            prepare(environment_of(lock.stem))
        except EnvironmentProblem as problem:
            problems[lock.stem] = str(problem).partition("\n")[0]
    return problems
