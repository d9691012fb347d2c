"""Prints requirements for the image builds: `light PYPROJECT` or `held REQUIREMENTS`."""  # noqa: INP001 - a program, no package

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

# PEP 440's versions, loosely: what a distribution's system packages call themselves ("1.1build1")
# is no constraint that pip could read.
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9.]+)?")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def light(pyproject: Path) -> list[str]:
    """Return what V-Gate needs beside an engine: also for limits that gateways share."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["state"]]


def held(
    requirements: Iterable[str], installed: Iterable[tuple[str | None, str | None]]
) -> list[str]:
    """Return constraints that keep what is installed, except for the requirements themselves.

    Args:
        requirements: Lines of a requirements file.
        installed: Names and versions in the order of Python's path; a broken installation has
            neither.
    """
    free = {normalised(found[0]) for line in requirements if (found := _NAME.match(line))}
    versions: dict[str, str] = {}
    for name, version in installed:
        # Python imports the first of several, so that is the one to hold.
        if name and version:
            versions.setdefault(normalised(name), version)
    return sorted(
        f"{name}=={version}"
        for name, version in versions.items()
        if name not in free and _VERSION.fullmatch(version)
    )


def normalised(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(what: str, path: Path) -> None:
    """Print one of the two lists."""
    if what == "light":
        lines = light(path)
    else:
        installed = [(found.name, found.version) for found in distributions()]
        lines = held(path.read_text(encoding="utf-8").splitlines(), installed)
    print("\n".join(lines))  # noqa: T201 - what the program is for


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
