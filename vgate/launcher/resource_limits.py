"""What the system lets the processes have: memory that they reserve, open files, connections."""

import resource

from vgate.config import Config
from vgate.config.runtime import MOST_CONNECTIONS, SHED_AT_ONCE
from vgate.fit.gpu import GIB
from vgate.launcher.run_dir import StartError
from vgate.log import Log
from vgate.sizing.room import gib

# A process reserves far more than it uses: 64 MiB for what each of some threads allocates, and
# their stacks. Launcher and frontend have reserved up to 650 MiB. With less they may start, and
# fail where the next thread can't.
_LEAST_BYTES = GIB
# Some programs look at every descriptor that would be allowed.
_MOST_FILES = 1 << 20
# What a process has open without requests: a frontend with one engine has 40, the launcher 25.
_OWN = 64
_OF_EACH_PROCESS = 8
_LEAST_CONNECTIONS = 8
# Of the files with the limits of API keys (`vgate.frontend.access.limiter.local`).
_LIMITS = 256

log = Log("vgate.launcher")


def check_memory() -> None:
    """Raise `StartError` if a process may not reserve what the smallest of V-Gate's do."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_BYTES:
        raise StartError(
            f"a process may reserve only {gib(limit)} of memory here (ulimit -v), and V-Gate needs "
            f"{gib(_LEAST_BYTES)}, of which it uses a part: raise the limit, or limit what is used "
            "(MemoryMax of systemd, --memory of Docker)"
        )


def allow_files(config: Config) -> int:
    """Allow as many open files as the system lets this process and its children have.

    A shell's default is often 1024. Returns how many connections each frontend may take.

    Raises:
        StartError: They are too few to start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    if soft == unlimited or soft > allowed:
        allowed = _MOST_FILES if soft == unlimited else soft
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    own = _OWN + SHED_AT_ONCE
    own += _OF_EACH_PROCESS * (len(config.all_models) + config.server.worker_count)
    least = own + _LEAST_CONNECTIONS
    if allowed < least:
        raise StartError(
            f"only {allowed} files may be open (ulimit -n), and V-Gate needs {least}: raise the "
            "limit (ulimit -Hn, LimitNOFILE of systemd, --ulimit nofile of Docker)"
        )
    connections = config.batch.sequences + config.batch.max_queue_size
    if config.security.enabled:
        own += _LIMITS
    most = min(MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, allowed - own))
    if most >= connections:
        return most
    log.warning(
        "few files may be open (ulimit -n): further connections are refused with 503",
        allowed=allowed,
        needed_for_a_full_queue=own + connections,
        connections_of_each_worker=most,
    )
    return most
