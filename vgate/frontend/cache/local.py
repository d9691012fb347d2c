"""The result cache: finished answers, least recently used out first. Pure.

An entry is kept as the bytes that also travel to the other frontends, so its size is exact and the
garbage collector has nothing to walk through.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from vgate.config.schema import Cache as CacheConfig
from vgate.frontend.answers.result import Result
from vgate.wire.sampling import SamplingParams

DIGEST_BYTES = 32
# What an entry costs besides its payload: the digest, the tuple, the table's slot.
_ENTRY_OVERHEAD_BYTES = 256


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An entry on its way to the other frontends."""

    digest: bytes
    payload: bytes


class CacheCounts(msgspec.Struct):
    """What has happened so far."""

    evictions: int = 0
    expirations: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(Result).decode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode


def digest_of(*parts: Any) -> bytes:
    """Return the digest of everything that shapes an answer.

    msgpack marks the type and length of each part, so different parts never run together into the
    same bytes.
    """
    return hashlib.blake2b(_encode(parts), digest_size=DIGEST_BYTES).digest()


def is_deterministic(sampling: SamplingParams) -> bool:
    """Say whether the same request gets the same answer again."""
    return sampling.temperature == 0 or sampling.seed is not None


class ResultCache:
    """Bounded by entries, bytes and age.

    Args:
        config: The bounds.
        clock: Monotonic seconds.

    Attributes:
        publish: Sends an entry to the other frontends.
        on_evicted: Called for each entry put out to make room.
        counts: What has happened so far.
    """

    def __init__(self, config: CacheConfig, *, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self.on_evicted: Callable[[], None] = lambda: None
        self.publish: Callable[[bytes], None] = lambda _entry: None
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._size_bytes = 0
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take."""
        return self._size_bytes

    @property
    def evictions(self) -> int:
        """Entries that made room for others."""
        return self.counts.evictions

    @property
    def expirations(self) -> int:
        """Entries that were found too old."""
        return self.counts.expirations

    def covers(self, sampling: SamplingParams) -> bool:
        """Say whether answers with these parameters are cached and shared at all."""
        if not self._config.enabled or self._config.maxsize == 0:
            return False
        return self._config.scope == "all" or is_deterministic(sampling)

    def get(self, digest: bytes) -> Result | None:
        """Return the stored answer; None if there is none or it is too old."""
        found = self._entries.get(digest)
        if found is not None:
            stored_at, payload = found
            if self._clock() - stored_at < self._config.ttl_s:
                self._entries.move_to_end(digest)
                return _decode_answer(payload)
            self._remove(digest)
            self.counts.expirations += 1
        return None

    def put(self, digest: bytes, answer: Result) -> None:
        """Store an answer that is complete, and send it to the other frontends."""
        payload = _encode(answer)
        if self._store(digest, payload):
            self.publish(_encode(Entry(digest, payload)))

    def receive(self, message: bytes) -> None:
        """Store what another frontend published; anything else is ignored."""
        try:
            entry = _decode_entry(message)
            _decode_answer(entry.payload)
        except msgspec.DecodeError:
            return
        self._store(entry.digest, entry.payload)

    def _store(self, digest: bytes, payload: bytes) -> bool:
        size = len(payload) + _ENTRY_OVERHEAD_BYTES
        if size > self._config.max_bytes:
            return False
        if digest in self._entries:
            self._remove(digest)
        self._entries[digest] = (self._clock(), payload)
        self._size_bytes += size
        while len(self) > self._config.maxsize or self._size_bytes > self._config.max_bytes:
            self._remove(next(iter(self._entries)))
            self.counts.evictions += 1
            self.on_evicted()
        return True

    def _remove(self, digest: bytes) -> None:
        _, payload = self._entries.pop(digest)
        self._size_bytes -= len(payload) + _ENTRY_OVERHEAD_BYTES
