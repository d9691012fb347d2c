"""Tells frontends which blocks the KV cache holds: all of them once, and then what changes. Pure.

Nothing runs until a frontend asks, which it does if it has several engines to choose from. A change
waits for others a little while, so that fast steps don't cost a message each.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator

import msgspec

from vgate.engine.blocks.cached import CachedBlocks
from vgate.wire.kv_blocks import MOST_KEYS, KvBlocks, pack_keys

# How long a change may wait.
REPORT_S = 0.02
# Keys of the first report that are sent in one turn of the loop: half a millisecond's work.
_PIECE = 2048
assert _PIECE <= MOST_KEYS


class _Watcher(msgspec.Struct, eq=False):
    """A frontend: the number of the last message that it was sent, and what it has yet to get.

    `names` are those of the blocks that were cached when its report began, `told` of them so far.
    """

    number: int = 0
    names: list[Hashable] = []
    told: int = 0


class BlockReports:
    """Reports for the frontends that watch.

    Args:
        follow: Makes the backend keep track of its blocks, and returns them; None if it can't.
            Called when a frontend asks first, and never again.
    """

    def __init__(self, follow: Callable[[], CachedBlocks | None]) -> None:
        self._follow = follow
        self._followed = False
        self.blocks: CachedBlocks | None = None
        self.watchers: dict[bytes, _Watcher] = {}
        # Watchers that have not been sent all that was cached when they asked.
        self._beginning: deque[bytes] = deque()
        self._next_report = 0.0

    @property
    def urgent(self) -> bool:
        """Whether there is something to send now."""
        return bool(self._beginning)

    def watch(self, peer: bytes, *, wanted: bool = True) -> None:
        """Begin, or begin anew, to report to a frontend; or, if it is not `wanted`, end."""
        self.forget(peer)
        if not wanted:
            return
        if not self._followed:
            self._followed, self.blocks = True, self._follow()
        self.watchers[peer] = _Watcher()
        self._beginning.append(peer)
        if self.blocks is not None:
            self.blocks.watched = True

    def forget(self, peer: bytes) -> None:
        """Report nothing more to a frontend."""
        if self.watchers.pop(peer, None) is None:
            return
        if peer in self._beginning:
            self._beginning.remove(peer)
        if self.blocks is not None and not self.watchers:
            self.blocks.watched = False
            self.blocks.take()

    def messages(self, now: float, *, idle: bool) -> Iterator[tuple[bytes, KvBlocks]]:
        """Return what to send now. `idle`: no step follows, so that nothing else will change."""
        blocks = self.blocks
        if (
            blocks is not None
            and blocks.changed
            and (idle or now >= self._next_report or self._beginning)
        ):
            self._next_report = now + REPORT_S
            yield from self._changes(blocks)
        if self._beginning:
            yield self._beginning[0], self._next_piece(self._beginning[0])

    def _changes(self, blocks: CachedBlocks) -> Iterator[tuple[bytes, KvBlocks]]:
        stored, removed = blocks.take()
        for start in range(0, max(len(stored), len(removed)), MOST_KEYS):
            part = slice(start, start + MOST_KEYS)
            packed = pack_keys(stored[part]), pack_keys(removed[part])
            # Some may be forgotten meanwhile, because they don't read.
            for peer, watcher in list(self.watchers.items()):
                if watcher.number:
                    watcher.number += 1
                    yield peer, KvBlocks(watcher.number, blocks.block_tokens, *packed)

    def _next_piece(self, peer: bytes) -> KvBlocks:
        watcher, blocks = self.watchers[peer], self.blocks
        watcher.number += 1
        reset = watcher.number == 1
        if blocks is None:
            self._beginning.popleft()
            return KvBlocks(watcher.number, 0, reset=reset)
        if reset:
            watcher.names = list(blocks.keys)
        piece = watcher.names[watcher.told : watcher.told + _PIECE]
        watcher.told += _PIECE
        if watcher.told >= len(watcher.names):
            watcher.names = []
            self._beginning.popleft()
        # Of what has been evicted since, its removal has been told.
        keys = [key for name in piece if (key := blocks.keys.get(name)) is not None]
        return KvBlocks(watcher.number, blocks.block_tokens, pack_keys(keys), reset=reset)
