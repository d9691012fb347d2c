"""A store in memory: the port as plainly as it can be said. Every call suspends its caller."""

import asyncio
from collections.abc import Callable

import msgspec

from vgate.config.schema import Cache
from vgate.frontend.answers import Result
from vgate.frontend.cache import StoreUsage


class MemoryStore:
    def __init__(self, config: Cache, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._kept: list[tuple[bytes, float, Result]] = []  # the least recently used first
        self._evictions = self._expirations = 0

    async def get(self, digest: bytes) -> Result | None:
        await asyncio.sleep(0)
        for entry in [each for each in self._kept if each[0] == digest]:
            self._kept.remove(entry)
            if self._clock() - entry[1] >= self._config.ttl_s:
                self._expirations += 1
                return None
            self._kept.append(entry)
            return entry[2]
        return None

    async def put(self, digest: bytes, result: Result) -> None:
        await asyncio.sleep(0)
        if _size(result) > self._config.max_bytes:
            return
        self._kept = [entry for entry in self._kept if entry[0] != digest]
        self._kept.append((digest, self._clock(), result))
        while len(self._kept) > self._config.maxsize or self._size() > self._config.max_bytes:
            del self._kept[0]
            self._evictions += 1

    def usage(self) -> StoreUsage:
        return StoreUsage(len(self._kept), self._size(), self._evictions, self._expirations)

    def close(self) -> None:
        pass

    def _size(self) -> int:
        return sum(_size(result) for _, _, result in self._kept)


def _size(result: Result) -> int:
    return len(msgspec.msgpack.encode(result)) + 256
