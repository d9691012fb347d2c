"""The digest that stands for a request's result, and which results may be stored."""

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from vgate.wire.parameters import SamplingParams

if TYPE_CHECKING:  # endpoints need the cache's face, and no configuration
    from vgate.config.schema import Cache

_encode = msgspec.msgpack.Encoder().encode


def digest_of(*parts: Any) -> bytes:
    """Return the digest of everything that shapes a result.

    msgpack marks the type and length of each part, so different parts never have the same bytes.
    """
    return hashlib.blake2b(_encode(parts), digest_size=32).digest()


def covers(config: "Cache", sampling: SamplingParams) -> bool:
    """Whether results with these parameters are stored and shared."""
    if not config.enabled or config.maxsize == 0:
        return False
    return config.scope == "all" or sampling.is_deterministic
