"""How many files and connections the processes may have open."""

import resource

from vgate.config import Config
from vgate.launcher.run_dir import StartError
from vgate.log import Log

# Some programs look at every descriptor that would be allowed.
_MOST = 1 << 20
# What a process has open without requests: a frontend with one engine has 40, the launcher 25.
_OWN = 64
_OF_EACH_PROCESS = 8
# Of the files with the limits of API keys (`vgate.frontend.access.limiter.local`).
_LIMITS = 256

log = Log("vgate.launcher")


def allow(config: Config) -> None:
    """Allow as many open files as the system lets this process and its children have.

    A shell's default is often 1024.

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
    least = _OWN + _OF_EACH_PROCESS * (len(config.models) + config.server.worker_count)
    if allowed < least:
        raise StartError(
            f"only {allowed} files may be open (ulimit -n), and V-Gate needs {least}: raise the "
            "limit (ulimit -Hn, LimitNOFILE of systemd, --ulimit nofile of Docker)"
        )
    needed = least + config.batch.sequences + config.batch.max_queue_size
    if config.security.enabled:
        needed += _LIMITS
    if allowed < needed:
        log.warning(
            "few files may be open (ulimit -n): with more connections, new ones have to wait",
            allowed=allowed,
            needed_for_a_full_queue=needed,
        )
