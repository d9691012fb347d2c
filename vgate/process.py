"""What every V-Gate process does for itself: it dies with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, sig: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us `sig` when the launcher dies, however it dies.

    Linux only; elsewhere a launcher killed with SIGKILL leaves its children behind.

    Args:
        parent_pid: The launcher. If it's gone already, the process ends here: the death that
            happened before the call sends no signal any more.
        sig: The signal to get.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)
