"""Ends a child process when its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies, however it dies.

    Linux only. On other systems the children of a launcher that is killed with SIGKILL stay.

    Args:
        parent_pid: The launcher.
        sig: The signal to send.

    Raises:
        SystemExit: The parent has died before the call, so no signal would come.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)
