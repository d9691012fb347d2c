"""The server as faults see it: its processes, what they log, and whether it has recovered."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import msgspec

from bench.chaos.instance import Instance

_POLL_S = 0.02
# A new connection meets any of the workers.
_ASKS_FOR_ALL_WORKERS = 8


class NotRecoveredError(Exception):
    """The server did not recover from a fault."""


class Fault(msgspec.Struct):
    """One that was inflicted. Times are monotonic, in seconds.

    Attributes:
        deaths: What died of it: "engine", "frontend" or "".
        ended: When it was over, and its victim or a successor served.
    """

    kind: str
    began: float
    ended: float = 0.0
    deaths: str = ""


class Victim(msgspec.Struct, frozen=True):
    """The server, what chooses a process of it and the durations, and how long it may recover."""

    instance: Instance
    rng: random.Random
    patience_s: float = 90.0

    async def process(self, role: str) -> int:
        """Return the pid of one of its processes, once there is one: it may have died by itself."""
        pids: list[int] = []

        async def there() -> bool:
            pids[:] = self.instance.pids(role)
            return bool(pids)

        await self.until(there, f"a process of the {role}")
        # Not asked for again: it may die at any moment.
        return self.rng.choice(pids)

    async def ready(self) -> bool:
        """Whether it says that it serves."""
        return await self._warnings() is not None

    async def ready_without_warnings(self) -> bool:
        """Whether all its workers say that they serve, and warn of nothing."""
        return all([await self._warnings() == [] for _ in range(_ASKS_FOR_ALL_WORKERS)])

    async def _warnings(self) -> list[str] | None:
        """Return what it warns of, or None if it does not serve."""
        host, port = self.instance.target.addresses[0], self.instance.target.port
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
        except OSError:
            return None
        if b" 200 " not in head.partition(b"\r\n")[0]:
            return None
        warnings: list[str] = msgspec.json.decode(body)["warnings"]
        return warnings

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition.

        Raises:
            NotRecoveredError: It took too long.
        """
        deadline = time.monotonic() + self.patience_s
        while not await condition():
            if time.monotonic() > deadline:
                raise NotRecoveredError(f"not within {self.patience_s:.0f} s: {what}")
            await asyncio.sleep(_POLL_S)
