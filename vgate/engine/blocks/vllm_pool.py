"""Follows the block pool of vLLM's scheduler, which is passed in.

vLLM can report its blocks itself (`kv_events_config`), but by hashes that only vLLM makes, and with
all of their tokens. Here the pool's methods are wrapped, and only once somebody asks: then there is
one more call for what a sequence fills or finds in a step, and one for what is evicted.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from vgate.engine.blocks.cached import CachedBlocks
from vgate.wire.kv_blocks import block_seed

# The pool's entries are named by the block's hash and, in so many bytes, the number of its group of
# layers (vllm/v1/core/kv_cache_utils.py).
_GROUP_BYTES = 4


def follow_pool(manager: Any) -> CachedBlocks | None:
    """Return the blocks of a KV cache manager's pool, kept up to date from now on.

    Of a model with several kinds of layers it is those of full attention: the others keep less, so
    that a prompt may find less than they say. None if nothing is cached, or there are no such
    layers.
    """
    pool = manager.block_pool
    managers = manager.coordinator.single_type_managers
    full = [each for each in managers if type(each).__name__ == "FullAttentionManager"]
    if not full or not manager.enable_caching or not hasattr(pool, "_emit_block_removed_events"):
        return None
    return _Follower(pool, full[0].kv_cache_group_id, full[0].block_size).blocks


class _Names(NamedTuple):
    """The pool's names of a sequence's blocks.

    vLLM may hash smaller blocks than a group has: so many `each` for one.
    """

    hashes: Any
    each: int
    suffix: bytes

    def of(self, number: int) -> bytes:
        """Return the name of a block, counted from 0."""
        name: bytes = self.hashes[(number + 1) * self.each - 1] + self.suffix
        return name


class _Follower:
    """Wraps the methods of a pool; `size` is that of the blocks of its `group` of layers."""

    def __init__(self, pool: Any, group: int, size: int) -> None:
        self.blocks = CachedBlocks(size)
        self._pool = pool
        self._group, self._suffix = group, group.to_bytes(_GROUP_BYTES, "big")
        self._hashes_each = size // pool.hash_block_size
        self._cache_full_blocks = pool.cache_full_blocks
        self._removed = pool._emit_block_removed_events  # noqa: SLF001 - told of all, wanted or not
        self._reset = pool.reset_prefix_cache
        pool.cache_full_blocks = self._on_cache
        pool._emit_block_removed_events = self._on_removed  # noqa: SLF001
        pool.reset_prefix_cache = self._on_reset

    def _on_cache(
        self,
        request: Any,
        blocks: Any,
        num_cached_blocks: int,
        num_full_blocks: int,
        block_size: int,
        kv_cache_group_id: int,
        **rest: Any,
    ) -> None:
        self._cache_full_blocks(
            request,
            blocks,
            num_cached_blocks,
            num_full_blocks,
            block_size,
            kv_cache_group_id,
            **rest,
        )
        if kv_cache_group_id != self._group or not self.blocks.ends(
            num_cached_blocks, num_full_blocks
        ):
            return
        if request.mm_features or request.prompt_embeds is not None:
            # The tokens don't say what is in these.
            return
        adapter = request.lora_request
        names = _Names(request.block_hashes, self._hashes_each, self._suffix).of
        seed = block_seed(adapter.lora_name if adapter else "", request.cache_salt or "")
        tokens = request.all_token_ids
        self.blocks.store(names, num_cached_blocks, num_full_blocks, tokens, seed)

    def _on_removed(self, hashes: Iterable[bytes]) -> None:
        # vLLM calls it for one block at a time, most of which have no key.
        keys = self.blocks.keys
        for name in hashes:
            if name in keys:
                # Two sequences that computed the same at once have a block each.
                left = self._pool.cached_block_hash_to_block.get_one_block(name)
                if left is None:
                    self.blocks.remove(name)
        if self._pool.enable_kv_cache_events:
            self._removed(hashes)

    def _on_reset(self) -> bool:
        done: bool = self._reset()
        if done:
            self.blocks.clear()
        return done
