"""The environment of the servers that V-Gate is compared with and does not depend on."""

import subprocess
import sys
import venv
from pathlib import Path

from bench.compare.progress import Progress
from bench.compare.service import UnavailableError

# A package that tells that a group is there, and what is installed for the group.
_GROUPS = {
    "fastapi": ("fastapi", ["fastapi", "uvicorn[standard]", "pydantic"]),
    "litellm": ("litellm", ["litellm[proxy]"]),
}
_INSTALL_TIMEOUT_S = 600
_SHOWN_CHARS = 300


class Peers:
    """Makes the environment and installs each group when it is first wanted."""

    def __init__(self, directory: Path, progress: Progress, *, may_install: bool) -> None:
        self._directory = directory
        self._progress = progress
        self._may_install = may_install
        self._refused: dict[str, str] = {}

    def python(self, group: str) -> Path:
        """Return the interpreter of the environment with that group.

        Raises:
            UnavailableError: It could not be installed.
        """
        if group in self._refused:
            raise UnavailableError(self._refused[group])
        python = self._directory / "bin" / "python"
        package, packages = _GROUPS[group]
        if not self._has(package):
            try:
                self._install(python, packages)
            except UnavailableError as error:
                self._refused[group] = str(error)
                raise
        return python

    def version(self, group: str) -> str | None:
        """Return the installed version of a group's package, if it is there."""
        package, _ = _GROUPS[group]
        found = list(self._directory.glob(f"lib/python*/site-packages/{package}-*.dist-info"))
        return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else None

    def _has(self, package: str) -> bool:
        return any(self._directory.glob(f"lib/python*/site-packages/{package}/__init__.py"))

    def _install(self, python: Path, packages: list[str]) -> None:
        if not self._may_install:
            raise UnavailableError(f"{' '.join(packages)} not installed in {self._directory}")
        if not python.exists():
            self._progress.say(f"making {self._directory}")
            venv.create(self._directory, with_pip=True)
        self._progress.say(f"installing {' '.join(packages)} into {self._directory}")
        # Its lines go to the terminal: an installation without a sign of life looks hung.
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *packages]
        try:
            subprocess.run(
                command, check=True, timeout=_INSTALL_TIMEOUT_S, stdout=sys.stderr.fileno()
            )
        except (subprocess.SubprocessError, OSError) as error:
            reason = str(error)[:_SHOWN_CHARS]
            raise UnavailableError(f"cannot install {' '.join(packages)}: {reason}") from None
