"""A second level of the result cache, in a server that gateways share.

It is asked only for what this worker doesn't have, and for a few milliseconds. Identical requests
that run at the same time in several gateways are not joined here: they meet in the engine, which
joins them, and with replicas a prefix leads them to the same one; a lock in the server would cost
every request a round trip, and those that wait the life of its holder.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vgate import __version__
from vgate.config.schema import Config, State
from vgate.frontend.answers import Result
from vgate.frontend.cache.local import LocalStore
from vgate.frontend.cache.port import ResultStore, StoreUsage
from vgate.frontend.observe import metrics

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from vgate.frontend.shared_state.server import SharedState

# More is compressed on a thread: it takes a millisecond or two.
_INLINE_BYTES = 16 * 1024
# Writes under way at once; answers that come faster are not kept there.
_MOST_WRITES = 64
_WRITE_S = 2.0
# After so many look-ups in a row that took too long there are none for a while.
_SLOW = 3
_PAUSE_S = 1.0

_ZLIB, _ZSTD = b"z", b"s"


def store_behind(
    loop: asyncio.AbstractEventLoop, local: LocalStore, shared: "SharedState | None", config: Config
) -> ResultStore:
    """Return a worker's store: its own, with a second level if gateways share one."""
    if shared is None or not config.state.cache:
        return local
    return SecondLevel(loop, local, shared, config.state, config.cache.ttl_s)


class SecondLevel:
    """A `ResultStore`: this worker's own, and the shared server behind it.

    Args:
        local: This worker's own; closed with this.
        state: The link to the server.
        ttl_s: How old a result may become.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        local: LocalStore,
        state: "SharedState",
        settings: State,
        ttl_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._local = local
        self._state = state
        self._client: Redis = state.client
        self._prefix = f"{settings.prefix}:answer-{__version__}:".encode()
        self._timeout_s = settings.cache_timeout_ms / 1000
        self._most_bytes = settings.cache_entry_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._slow = 0
        self._resumes = 0.0
        self._writes: set[asyncio.Task[None]] = set()

    async def get(self, digest: bytes) -> Result | None:
        """Return the stored result; None if there is none or it is too old."""
        found = await self._local.get(digest)
        if found is not None:
            return found
        if self._state.away is not None or self._clock() < self._resumes:
            metrics.STATE_CACHE.labels("skipped").inc()
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                payload, left_ms = await self._fetch(digest)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer can be generated
            outcome = "slow" if isinstance(error, TimeoutError) else "failed"
            metrics.STATE_CACHE.labels(outcome).inc()
            self._slow += 1
            if self._slow >= _SLOW:
                self._resumes = self._clock() + _PAUSE_S
            return None
        self._slow = 0
        metrics.STATE_CACHE.labels("miss" if payload is None else "hit").inc()
        if payload is None:
            return None
        age_s = max(0.0, self._ttl_s - left_ms / 1000)
        return self._local.keep(digest, payload, age_s)

    async def put(self, digest: bytes, result: Result) -> None:
        """Store a result in this worker, and soon in the server."""
        await self._local.put(digest, result)
        payload = self._local.payload_of(digest)
        if payload is None or len(payload) > self._most_bytes:
            return
        if self._state.away is None and len(self._writes) < _MOST_WRITES:
            task = self._loop.create_task(self._write(digest, payload))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    def usage(self) -> StoreUsage:
        """Return what this worker holds."""
        return self._local.usage()

    def close(self) -> None:
        """Drop what is not written yet."""
        for task in self._writes:
            task.cancel()
        self._local.close()

    async def _fetch(self, digest: bytes) -> tuple[bytes | None, int]:
        key = self._prefix + digest
        packed, left_ms = await (
            self._client.pipeline(transaction=False).get(key).pttl(key).execute()
        )
        return (None if packed is None else unpack(packed, self._most_bytes)), left_ms

    async def _write(self, digest: bytes, payload: bytes) -> None:
        try:
            if len(payload) <= _INLINE_BYTES:
                packed = pack(payload)
            else:
                packed = await self._loop.run_in_executor(None, pack, payload)
            async with asyncio.timeout(_WRITE_S):
                milliseconds = max(1, round(self._ttl_s * 1000))
                await self._client.set(self._prefix + digest, packed, px=milliseconds)
        except Exception:  # noqa: BLE001 - it is a cache: full memory is one of the reasons
            metrics.STATE_CACHE.labels("not_stored").inc()


def pack(payload: bytes) -> bytes:
    """Return a payload compressed: by zstandard if that is installed, by zlib otherwise."""
    zstd = _zstd()
    if zstd is not None:
        return _ZSTD + bytes(zstd.ZstdCompressor(level=3).compress(payload))
    return _ZLIB + zlib.compress(payload, 1)


def unpack(packed: bytes, most_bytes: int) -> bytes | None:
    """Return the payload; None if it can't be read here or has more than `most_bytes`."""
    kind, data = packed[:1], packed[1:]
    try:
        if kind == _ZLIB:
            reader = zlib.decompressobj()
            payload = reader.decompress(data, most_bytes + 1)
            return payload if reader.eof and len(payload) <= most_bytes else None
        zstd = _zstd()
        if kind == _ZSTD and zstd is not None and zstd.frame_content_size(data) <= most_bytes:
            return bytes(zstd.ZstdDecompressor().decompress(data, max_output_size=most_bytes))
    except Exception:  # noqa: BLE001 - damaged, or made by something else
        return None
    return None


@cache
def _zstd() -> Any:
    if find_spec("zstandard") is None:
        return None
    import zstandard

    return zstandard
