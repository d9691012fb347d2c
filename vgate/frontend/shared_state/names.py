"""The names of what the server keeps for an API key."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

_PARTS = ("meta", "requests", "tokens", "amounts", "leases", "reserved")


def names_with(prefix: str) -> Callable[[str], tuple[str, ...]]:
    """Return what names the script's keys for an API key; the last one lacks a budget's period."""

    @lru_cache(maxsize=10_000)
    def names(key_id: str) -> tuple[str, ...]:
        # In braces: what a cluster chooses the node by.
        tag = blake2b(key_id.encode(), digest_size=16).hexdigest()
        return tuple(f"{prefix}:{{{tag}}}:{part}" for part in (*_PARTS, "used"))

    return names
