"""Finds the system's Chromium, and installs it where that can be done without asking.

As bin/test, this needs only Python 3.8 and the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from vgate.launcher.environments.model import EnvironmentProblem

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 900


def find_chromium() -> str | None:
    """Returns the path of the browser."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def install_chromium() -> None:
    """Installs it with apt, if it is missing and we are root.

    Raises:
        EnvironmentProblem: It is missing still.
    """
    if find_chromium():
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise EnvironmentProblem("there is no Chromium: install it (apt-get install chromium)")
    print("installing Chromium", flush=True)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [apt, "-qq", "-y", "--no-install-recommends", "install", "chromium", "fonts-dejavu"]
    # The lists may be too old, or missing as in an image.
    for command in (install, [apt, "-qq", "update"], install):
        if find_chromium():
            return
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    if not find_chromium():
        raise EnvironmentProblem(f"Chromium could not be installed\n{done.stdout[-2000:]}")
