"""The dry-run engine's prefix cache: full blocks stay after their sequence ends, as in vLLM. Pure.

The least recently used are evicted when running sequences need their place; of those that were
freed together, the ones that stand last in the prompt go first.
"""

from vgate.engine.backends.dry_run.sequence import Sequence
from vgate.engine.blocks.cached import CachedBlocks

# As vLLM's on a GPU.
BLOCK_TOKENS = 16


class PrefixCache:
    """The blocks that are cached: those that running sequences hold, and the idle ones.

    Args:
        enabled: Whether anything is cached.

    Attributes:
        queries, hits: Prompt tokens that were looked up, and found.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.queries = self.hits = 0
        self._enabled = enabled
        # Blocks that sequences hold, those that several hold each time.
        self._held = 0
        # How many sequences hold a block, and the blocks that none does, the oldest first.
        self._holders: dict[int, int] = {}
        self._idle: dict[int, None] = {}
        self._followed: CachedBlocks | None = None

    def follow(self) -> CachedBlocks | None:
        """Return what is cached, kept up to date from the first call on; None if it never is."""
        if self._enabled and self._followed is None:
            self._followed = CachedBlocks(BLOCK_TOKENS)
        return self._followed

    def look_up(self, sequence: Sequence) -> None:
        """Let a sequence that has computed nothing begin after what is cached of it."""
        if not self._enabled:
            return
        # At least one token is computed, because its logits are needed.
        most = (sequence.prefill_tokens - 1) // BLOCK_TOKENS if sequence.reads_cache else 0
        found = sequence.held_blocks
        if found < most:
            names, holders = sequence.block_names(most, BLOCK_TOKENS), self._holders
            found = next((n for n in range(found, most) if names[n] not in holders), most)
        self._hold(sequence, found)
        sequence.prefilled = sequence.cached_tokens = found * BLOCK_TOKENS

    def fill(self, sequence: Sequence, tokens: int) -> None:
        """Cache the full blocks of a sequence that has computed its first tokens, so many."""
        full = tokens // BLOCK_TOKENS
        if full > sequence.held_blocks and self._enabled:
            self._hold(sequence, full)

    def count(self, sequence: Sequence) -> None:
        """Count what was looked up for a sequence that has got its first token."""
        if self._enabled:
            self.queries += sequence.prefill_tokens - 1
            self.hits += sequence.cached_tokens

    def _hold(self, sequence: Sequence, blocks: int) -> None:
        """Let a sequence hold so many blocks, cached ones or new ones."""
        first = sequence.held_blocks
        if blocks <= first:
            return
        names = sequence.block_names(blocks, BLOCK_TOKENS)
        for name in names[first:blocks]:
            self._holders[name] = self._holders.get(name, 0) + 1
            self._idle.pop(name, None)
        sequence.held_blocks = blocks
        self._held += blocks - first
        if self._followed is not None and self._followed.ends(first, blocks):
            self._followed.store(names.__getitem__, first, blocks, sequence.tokens, sequence.seed)

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks that a sequence holds; they stay cached."""
        names = sequence.block_names(sequence.held_blocks, BLOCK_TOKENS)
        for name in reversed(names[: sequence.held_blocks]):
            self._holders[name] -= 1
            if not self._holders[name]:
                self._idle[name] = None
        self._held -= sequence.held_blocks
        sequence.held_blocks = 0

    @property
    def shared_tokens(self) -> int:
        """How many tokens count more than once in blocks that sequences hold."""
        return (self._held - len(self._holders) + len(self._idle)) * BLOCK_TOKENS

    def evict(self, room_tokens: int) -> None:
        """Evict idle blocks until the rest takes no more than this."""
        while self._idle and len(self._idle) * BLOCK_TOKENS > room_tokens:
            name = next(iter(self._idle))
            del self._idle[name], self._holders[name]
            if self._followed is not None:
                self._followed.remove(name)
