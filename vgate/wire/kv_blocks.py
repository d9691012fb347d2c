"""Which prefixes an engine has in its KV cache, for frontends that choose between engines.

A prefix is known by the key of its last block: a block's key is made of its tokens and the key of
the block before it. Engines and frontends make the same keys of the same tokens. A key says where
a prompt is cheap to run, never whose it is or what it says: a collision costs a prefill.
"""

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta

# Fewer tokens in a block cost more messages, memory and time for each prompt, and a prefix that is
# shorter costs next to nothing to compute again.
LEAST_BLOCK_TOKENS = 64
# The most keys of each kind in one message.
MOST_KEYS = 8192
_KEY_BYTES = 8
_TOKEN_ID_BYTES = 4

PackedKeys = Annotated[bytes, Meta(max_length=MOST_KEYS * _KEY_BYTES)]


class WatchBlocks(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Ask for the engine's blocks, and for all changes from then on; or for no more of them.

    Asked again, as after a gap in the numbers, the engine begins anew.
    """

    wanted: bool = True


class KvBlocks(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Blocks that the engine's KV cache has got and has lost since the message before.

    Attributes:
        number: Of the first message after `WatchBlocks` 1, then one more each time.
        block_tokens: Tokens in a block; 0 if the engine can't tell what its cache holds.
        stored, removed: The keys (`unpack_keys`). None is in both. While the first report goes on,
            what is stored may be known, and what is removed unknown.
        reset: Forget everything first. The blocks that the cache holds follow, in this message and
            others.
    """

    number: int
    block_tokens: int
    stored: PackedKeys = b""
    removed: PackedKeys = b""
    reset: bool = False


def key_block_tokens(kv_block_tokens: int) -> int:
    """Return how many tokens have a key: whole blocks of the KV cache, `LEAST_BLOCK_TOKENS` up."""
    return -(-LEAST_BLOCK_TOKENS // kv_block_tokens) * kv_block_tokens


def block_seed(adapter: str, cache_salt: str) -> int:
    """Return the seed of the keys of prompts that share cached blocks only with each other."""
    # Python's hash of a text differs from process to process, of a tuple of numbers it doesn't.
    return hash((len(adapter), *adapter.encode(), *cache_salt.encode()))


def block_keys(prompt: bytes | Sequence[int], block_tokens: int, seed: int) -> list[int]:
    """Return the keys of a prompt's full blocks, in order.

    Args:
        prompt: Token ids, packed as they travel or not; or what follows a block of them.
        block_tokens: As in `KvBlocks`.
        seed: From `block_seed`; for what follows a block, that block's key.
    """
    packed = prompt if isinstance(prompt, bytes) else _pack("I", prompt)
    # Both are the same in every process and Python version: zlib's checksum, and the hash of a
    # tuple of numbers, which is xxHash (CPython, Objects/tupleobject.c). To make numbers of the
    # tokens alone takes three times longer than this.
    key, keys, size = seed, [], block_tokens * _TOKEN_ID_BYTES
    for start in range(0, len(packed) - size + 1, size):
        key = hash((key, crc32(packed[start : start + size])))
        keys.append(key)
    return keys


def pack_keys(keys: Iterable[int]) -> bytes:
    """Pack keys as little-endian int64."""
    return _pack("q", keys)


def unpack_keys(packed: bytes) -> list[int]:
    """Return the keys that `pack_keys` packed; a rest that is no whole key is ignored."""
    keys = array("q", packed[: len(packed) // _KEY_BYTES * _KEY_BYTES])
    if sys.byteorder == "big":
        keys.byteswap()
    return keys.tolist()


def _pack(kind: str, numbers: Iterable[int]) -> bytes:
    packed = array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
