"""The store in a worker's memory: it drops the least recently used results first.

Workers send each other what they store, so each has the results of all. An entry is kept as the
bytes that are sent, so its size is exact and the garbage collector has nothing to follow.
cachetools' LRUCache takes twice as long, and bounds entries or bytes but not both.
"""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from vgate.config.schema import Cache as CacheConfig
from vgate.frontend.answers import Result
from vgate.frontend.cache.port import StoreUsage
from vgate.frontend.observe import metrics

# What an entry costs in addition to its payload: the digest, the tuple, the table's slot.
_ENTRY_OVERHEAD_BYTES = 256

_encode = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(Result).decode
# A digest and a payload, on their way to the other workers.
_decode_entry = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode


class LocalStore:
    """A `ResultStore` bounded by entries, bytes and age. It never suspends its caller.

    Args:
        config: The bounds.
        clock: Monotonic seconds.

    Attributes:
        publish: Sends an entry to the other workers.
    """

    def __init__(self, config: CacheConfig, *, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self.publish: Callable[[bytes], None] = lambda _entry: None
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._size_bytes = 0
        self._evictions = 0
        self._expirations = 0

    async def get(self, digest: bytes) -> Result | None:
        """Return the stored result; None if there is none or it is too old."""
        found = self._entries.get(digest)
        if found is not None:
            stored_at, payload = found
            if self._clock() - stored_at < self._config.ttl_s:
                self._entries.move_to_end(digest)
                return _decode_result(payload)
            self._remove(digest)
            self._expirations += 1
        return None

    async def put(self, digest: bytes, result: Result) -> None:
        """Store a result and send it to the other workers."""
        payload = _encode(result)
        if self._store(digest, payload):
            self.publish(_encode((digest, payload)))

    def keep(self, digest: bytes, payload: bytes, age_s: float) -> Result | None:
        """Store a payload from elsewhere that is so old; return its result, None if it is none."""
        try:
            result = _decode_result(payload)
        except msgspec.DecodeError:
            return None
        self._store(digest, payload, age_s)
        return result

    def payload_of(self, digest: bytes) -> bytes | None:
        """Return what is kept of a result."""
        found = self._entries.get(digest)
        return None if found is None else found[1]

    def receive(self, message: bytes) -> None:
        """Store an entry that another worker published; ignore any other message."""
        try:
            digest, payload = _decode_entry(message)
            _decode_result(payload)
        except msgspec.DecodeError:
            return
        self._store(digest, payload)

    def usage(self) -> StoreUsage:
        """Return what this worker holds."""
        return StoreUsage(len(self._entries), self._size_bytes, self._evictions, self._expirations)

    def close(self) -> None:
        """Do nothing: the memory is freed with the process."""

    def _store(self, digest: bytes, payload: bytes, age_s: float = 0.0) -> bool:
        config, size = self._config, len(payload) + _ENTRY_OVERHEAD_BYTES
        if size > config.max_bytes:
            return False
        if digest in self._entries:
            self._remove(digest)
        self._entries[digest] = (self._clock() - age_s, payload)
        self._size_bytes += size
        while len(self._entries) > config.maxsize or self._size_bytes > config.max_bytes:
            self._remove(next(iter(self._entries)))
            self._evictions += 1
            metrics.CACHE_EVICTIONS.inc()
        return True

    def _remove(self, digest: bytes) -> None:
        _, payload = self._entries.pop(digest)
        self._size_bytes -= len(payload) + _ENTRY_OVERHEAD_BYTES
