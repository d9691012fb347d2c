"""Describes environments: where they are, what is in them, and whether they are up to date.

A start with an environment that is up to date imports only this module and `start`, reads a few
small files and runs no subprocess.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in typing, whose import would slow down every start
if TYPE_CHECKING:
    from collections.abc import Sequence

SUPPORTED = ("3.13", "3.12", "3.11")
# By name: which bin/NAME-requirements.txt are installed, and the Pythons that it may have.
# "light" is for dry runs and for commands that run no model, "docs" for
# their site, "test-X.Y" for tests and linters, "kubernetes" for tests of the Helm chart.
ENVIRONMENTS = {
    "light": (("light",), SUPPORTED),
    "vllm-cuda": (("vllm-cuda", "light"), SUPPORTED),
    "vllm-cpu": (("vllm-cpu", "light"), ("3.11",)),
    "docs": (("docs",), SUPPORTED),
    "kubernetes": (("test",), SUPPORTED),
    **{f"test-{version}": (("test",), (version,)) for version in SUPPORTED},
}


class EnvironmentProblem(Exception):  # noqa: N818 - the machine's problem, not an error of ours
    """The environment can't be made; the message says what to do."""


class Environment:
    """A virtual environment in `.venv/` of a clone.

    Its stamp lists the interpreter and the installed requirements; it is written last, so an
    unfinished environment has none. `more` names other requirements files, relative to the clone.
    """

    def __init__(self, clone: str, name: str, more: Sequence[str] = ()) -> None:
        locks, self.versions = ENVIRONMENTS[name]
        files = [os.path.join("bin", f"{lock}-requirements.txt") for lock in locks]
        self.name = name
        self.files = [os.path.join(clone, file) for file in (*files, *more)]
        self.requirements = [line for file in self.files for line in read_requirements(file)]
        self.directory = os.path.join(clone, ".venv", name)
        self.python = os.path.join(self.directory, "bin", "python")
        self.stamp = os.path.join(self.directory, ".vgate-stamp")

    def is_current(self) -> bool:
        """Whether the requirements are installed, perhaps with others: bin/test adds some."""
        return os.access(self.python, os.X_OK) and self._installed() >= set(self._wanted())

    def can_be_extended(self) -> bool:
        """Whether it is finished, and has only packages that are wanted."""
        installed = self._installed()
        return bool(installed) and installed <= set(self._wanted())

    def mark_finished(self) -> None:
        """Write the stamp."""
        with open(self.stamp + ".new", "w", encoding="utf-8") as stamp:
            stamp.write("\n".join(self._wanted()))
        os.replace(self.stamp + ".new", self.stamp)

    def _installed(self) -> set[str]:
        try:
            with open(self.stamp, encoding="utf-8") as stamp:
                return set(stamp.read().splitlines())
        except OSError:
            return set()

    def _wanted(self) -> list[str]:
        # The interpreter behind the link, because a system upgrade may replace it.
        return ["interpreter: " + os.path.realpath(self.python), *self.requirements]


def read_requirements(path: str) -> list[str]:
    """Return the lines of a requirements file, without comments."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except OSError as error:
        raise EnvironmentProblem(
            f"{path} can't be read ({error.strerror}): is this a complete clone?"
        ) from error
    return [line for line in lines if line]
