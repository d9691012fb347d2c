"""How much memory a process may reserve, used or not."""

import resource

from vgate.fit.gpu import GIB
from vgate.launcher.run_dir import StartError
from vgate.sizing.room import gib

# A process reserves far more than it uses: 64 MiB for what each of some threads allocates, and
# their stacks. Launcher and frontend have reserved up to 650 MiB. With less they may start, and
# fail where the next thread can't.
_LEAST_BYTES = GIB


def check() -> None:
    """Check that a process may reserve what the smallest of V-Gate's do.

    Raises:
        StartError: It may not.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_BYTES:
        raise StartError(
            f"a process may reserve only {gib(limit)} of memory here (ulimit -v), and V-Gate needs "
            f"{gib(_LEAST_BYTES)}, of which it uses a part: raise the limit, or limit what is used "
            "(MemoryMax of systemd, --memory of Docker)"
        )
