"""The blocks that a KV cache holds, by the keys that frontends know. Pure."""

from collections.abc import Callable, Hashable, Sequence

from vgate.wire.kv_blocks import block_keys, key_block_tokens

# Keys made at once of a prompt, which may have little in the cache.
_LOOK_UP_BLOCKS = 8


class CachedBlocks:
    """Follows a backend's prefix cache, and what has changed in it since that was last taken.

    A backend names its blocks as it likes. One key stands for so many of them that it covers enough
    tokens, and goes by the name of the last one, which is the first to be evicted.

    Args:
        kv_block_tokens: Tokens in one of the backend's blocks.

    Attributes:
        block_tokens: Tokens that one key stands for.
        keys: The keys of what is cached, by name.
        watched: Whether changes are kept.
    """

    def __init__(self, kv_block_tokens: int) -> None:
        self.block_tokens = key_block_tokens(kv_block_tokens)
        self.keys: dict[Hashable, int] = {}
        self.watched = False
        self._each = self.block_tokens // kv_block_tokens
        self._present: set[int] = set()
        self._stored: dict[int, None] = {}
        self._removed: set[int] = set()

    @property
    def changed(self) -> bool:
        """Whether there is something to take."""
        return bool(self._stored or self._removed)

    def ends(self, first: int, end: int) -> bool:
        """Whether the last block of a key is among the backend's blocks from `first` to `end`."""
        return first // self._each < end // self._each

    def store(
        self,
        name_of: Callable[[int], Hashable],
        first: int,
        end: int,
        tokens: Sequence[int],
        seed: int,
    ) -> None:
        """Note blocks of a sequence that are cached from now on, or were already.

        Args:
            name_of: Returns the name of one of its blocks, up to `end`, counted from 0.
            first: The first of those that are to be stored.
            end: The one after the last.
            tokens: The sequence's.
            seed: For the key of its first block.
        """
        if not self.ends(first, end):
            return
        each, size = self._each, self.block_tokens
        key_first, key_end = first // each, end // each
        parent: int | None = seed
        if key_first:
            parent = self.keys.get(name_of(key_first * each - 1))
        if parent is None:
            # They were cached before anyone asked.
            key_first, parent = 0, seed
        keys = block_keys(tokens[key_first * size : key_end * size], size, parent)
        for number, key in enumerate(keys, start=key_first + 1):
            name = name_of(number * each - 1)
            if name not in self.keys:
                self.keys[name] = key
                self._add(key)

    def remove(self, name: Hashable) -> None:
        """Note that a block was evicted."""
        key = self.keys.pop(name, None)
        if key is None:
            return
        self._present.discard(key)
        if self.watched:
            # A change and its opposite are none.
            if key in self._stored:
                del self._stored[key]
            else:
                self._removed.add(key)

    def clear(self) -> None:
        """Note that all blocks are gone."""
        for name in list(self.keys):
            self.remove(name)

    def take(self) -> tuple[list[int], list[int]]:
        """Return the keys that were stored and those that were removed since the last call."""
        stored, removed = list(self._stored), list(self._removed)
        self._stored.clear()
        self._removed.clear()
        return stored, removed

    def cached_tokens(self, tokens: Sequence[int], seed: int) -> int:
        """Return how many of a prompt's first tokens have keys of cached blocks."""
        size, key, found = self.block_tokens, seed, 0
        while keys := block_keys(tokens[found : found + _LOOK_UP_BLOCKS * size], size, key):
            for key in keys:
                if key not in self._present:
                    return found
                found += size
        return found

    def _add(self, key: int) -> None:
        self._present.add(key)
        if self.watched:
            if key in self._removed:
                self._removed.remove(key)
            else:
                self._stored[key] = None
