"""What identifies a request's answer, and which answers may be stored. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from vgate.config.schema import Cache as CacheConfig
from vgate.wire.sampling import SamplingParams

_DIGEST_BYTES = 32

_encode = msgspec.msgpack.Encoder().encode


def digest_of(*parts: Any) -> bytes:
    """Return the digest of everything that shapes an answer.

    msgpack marks the type and length of each part, so different parts never have the same bytes.
    """
    return hashlib.blake2b(_encode(parts), digest_size=_DIGEST_BYTES).digest()


def is_deterministic(sampling: SamplingParams) -> bool:
    """Return whether the same request gets the same answer again."""
    return sampling.temperature == 0 or sampling.seed is not None


def covers(config: CacheConfig, sampling: SamplingParams) -> bool:
    """Return whether answers with these parameters are stored and shared at all."""
    if not config.enabled or config.maxsize == 0:
        return False
    return config.scope == "all" or is_deterministic(sampling)
