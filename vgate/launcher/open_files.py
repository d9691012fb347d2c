"""How many files and connections the processes may have open."""

import resource

from vgate.config import Config
from vgate.config.runtime import MOST_CONNECTIONS, SHED_AT_ONCE
from vgate.launcher.run_dir import StartError
from vgate.log import Log

# Some programs look at every descriptor that would be allowed.
_MOST = 1 << 20
# What a process has open without requests: a frontend with one engine has 40, the launcher 25.
_OWN = 64
_OF_EACH_PROCESS = 8
_LEAST_CONNECTIONS = 8
# Of the files with the limits of API keys (`vgate.frontend.access.limiter.local`).
_LIMITS = 256

log = Log("vgate.launcher")


def allow(config: Config) -> int:
    """Allow as many open files as the system lets this process and its children have.

    A shell's default is often 1024. Returns how many connections each frontend may take.

    Raises:
        StartError: They are too few to start.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = _MOST if hard == unlimited else min(hard, _MOST)
    if soft == unlimited or soft > allowed:
        allowed = _MOST if soft == unlimited else soft
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
