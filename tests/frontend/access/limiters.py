"""The limiters that the contract suite holds to their port. A further one is a line in `LIMITERS`.

Each is made as its workers' limiters would be: all of one directory share their counts.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tests.frontend.access.memory_limiter import MemoryLimiter
from tests.frontend.access.shared_limiters import LEASE_S, shared
from tests.state_server import find_server
from vgate.frontend.access.limiter import Limiter, LocalLimiter
from vgate.frontend.access.limiter.port import NS
from vgate.frontend.access.limiter.shared import SharedLimiter

UNIX = 1_700_000_000.0


class Clock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.ns = 1_000 * NS

    def __call__(self) -> int:
        return self.ns

    def wall(self) -> float:
        return UNIX + self.ns / NS

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * NS)


LIMITERS: dict[str, Callable[[Path, int, Clock], Limiter]] = {
    "local": lambda path, worker, clock: LocalLimiter(
        path, worker, clock_ns=clock, wall_s=clock.wall
    ),
    "memory": lambda path, worker, clock: MemoryLimiter(path, worker, clock, clock.wall),
}
if find_server() and find_spec("redis"):
    LIMITERS["shared"] = shared
# After how many seconds a dead worker runs nothing, where its successor doesn't see to it.
LAPSES_S = {"shared": LEASE_S}


def keep_alive(limiter: Limiter) -> None:
    """Do what a living worker does in that time."""
    if isinstance(limiter, SharedLimiter):
        limiter.renew()
