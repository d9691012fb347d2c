"""How an engine and a frontend begin: as child processes of the launcher, which end with it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def begin(program: str, *numbers: str) -> tuple[str, list[int]]:
    """Read the launcher's arguments; return the run directory and the numbers with these names.

    Call this first, before slow imports.
    """
    run_dir, (parent, *values) = _arguments(program, "parent", *numbers)
    # Ctrl-C reaches every process of the terminal; the launcher decides when this one stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(parent)
    try:
        os.getcwd()  # noqa: PTH109 - Path is imported later
    except FileNotFoundError:  # deleted since the start, as by a deployment; granian asks for it
        os.chdir("/")
    return run_dir, values


def _arguments(program: str, *numbers: str) -> tuple[str, list[int]]:
    """Return the run directory and the numbers. argparse takes a megabyte of each process."""
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    try:
        return given["--run-dir"], [int(given[f"--{number}"]) for number in numbers]
    except (KeyError, ValueError):
        wanted = " ".join(f"--{number} NUMBER" for number in numbers)
        sys.stderr.write(f"usage: {program} --run-dir DIRECTORY {wanted} (by the launcher)\n")
        raise SystemExit(2) from None


def _die_with_parent(parent_pid: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, however it dies.

    Linux only: elsewhere the children of a launcher that is killed with SIGKILL keep running.

    Raises:
        SystemExit: The parent died before the call, so no signal would come.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)
