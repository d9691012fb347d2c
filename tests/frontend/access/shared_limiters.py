"""The limiter that gateways share, with a real server, and a link that keeps to no event loop."""

import atexit
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from tests.state_server import StateServer
from vgate.config.schema import State
from vgate.frontend.access.budget import Budget
from vgate.frontend.access.limiter import LocalLimiter
from vgate.frontend.access.limiter.shared import SharedLimiter
from vgate.frontend.shared_state.calls import SCRIPT, Answer, Call, decode_answer, encode

LEASE_S = 10


@cache
def server() -> StateServer:
    """Return the server of all tests of this process."""
    started = StateServer().start()
    atexit.register(started.kill)
    return started


class WaitingLink:
    """A link that waits for the server as long as it takes."""

    away = None
    settled_at = 0.0

    def __init__(self, at: StateServer) -> None:
        import redis

        self.client = redis.Redis(port=at.port)
        self._script = self.client.register_script(SCRIPT.read_text())
        self.calls: list[tuple[tuple[str, ...], Call]] = []

    async def call(self, keys: tuple[str, ...], call: Call) -> Answer:
        self.calls.append((keys, call))
        return decode_answer(self.raw(keys, call))

    def post(self, keys: tuple[str, ...], call: Call, *, lasting: bool = True) -> None:
        self.calls.append((keys, call))
        self.raw(keys, call)

    def close(self) -> None:
        self.client.close()

    def raw(self, keys: tuple[str, ...], call: Call) -> Any:
        return self._script(keys=keys, args=[encode(call)])


class NoBudgets:
    """Budgets of which this gateway has used as much as a test says."""

    def __init__(self, used: int = 0) -> None:
        self.used = used

    def counted(self, key: str, budget: Budget) -> int:
        return self.used

    def today(self) -> date:
        return date(2026, 1, 1)


def shared(path: Path, worker: int, clock: Any, **settings: Any) -> SharedLimiter:
    """Return a worker's limiter; all of one directory share their counts."""
    state = State(url=server().url, prefix=f"test:{abs(hash(path)):x}", lease_s=LEASE_S, **settings)
    return SharedLimiter(
        WaitingLink(server()),
        LocalLimiter(path, worker),
        state,
        f"gateway-{worker}",
        NoBudgets(),
        clock_ns=clock,
        wall_s=clock.wall,
    )
