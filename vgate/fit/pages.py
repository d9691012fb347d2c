"""How vLLM's KV cache manager lays layers out in blocks, and what a sequence takes of them.

All groups of layers draw blocks of one size from one pool. A group is layers with the same need;
groups have the same number of layers, so a rare kind of layer decides how large a block is
(vllm/v1/core/kv_cache_utils.py, get_kv_cache_groups; kv_cache_interface.py).
"""

from collections import Counter

import msgspec

from vgate.fit.errors import FitError
from vgate.fit.layers import Attention, Layer, State

# vLLM's own, and the least that its attention kernels for GPUs take.
BLOCK_TOKENS = 16
_LATENT_BLOCK_TOKENS = 128
# A group may have padding layers as long as that makes fewer groups.
_PADDING_PAYS = 1.5


class Group(msgspec.Struct, frozen=True):
    """Layers that share a table of blocks.

    Attributes:
        layer: What each of them keeps.
    """

    layer: Layer
    layers: int
    block_tokens: int

    def blocks(self, tokens: int, in_flight: int, *, prefix_caching: bool) -> int:
        """Return what a sequence of so many tokens takes; see `KVCache.blocks`."""
        if isinstance(self.layer, State):
            # The state at the last whole block is kept beside the running one.
            kept = 2 + self.layer.checkpoints if prefix_caching else 1
            return kept + self.layer.drafts
        if self.layer.window is not None:
            # One more, because a window need not begin with a block.
            held = min(self.layer.window - 1 + in_flight, tokens)
            return _divided_up(held, self.block_tokens) + 1
        if self.layer.chunk is not None:
            return _divided_up(min(self.layer.chunk + in_flight, tokens), self.block_tokens)
        return _divided_up(tokens, self.block_tokens)


class KVCache(msgspec.Struct, frozen=True):
    """The layout of a model's KV cache.

    Attributes:
        block_bytes: A block of the pool, with all layers of a group.
        groups: The groups that draw from it; none without anything to keep.
        in_flight_tokens: Tokens of steps that have not been settled, whose blocks a window can't
            free yet.
        prefix_caching: Whether prefixes are cached, so that states are kept for it.
    """

    block_bytes: int
    groups: list[Group]
    in_flight_tokens: int
    prefix_caching: bool

    def blocks(self, tokens: int) -> int:
        """Return the blocks that a sequence of so many tokens takes."""
        return sum(
            group.blocks(tokens, self.in_flight_tokens, prefix_caching=self.prefix_caching)
            for group in self.groups
        )

    def sequence_bytes(self, tokens: int) -> int:
        """Return what a sequence of so many tokens takes."""
        return self.blocks(tokens) * self.block_bytes

    def concurrency(self, memory: int, tokens: int) -> float:
        """Return how many sequences of so many tokens fit, as vLLM's "Maximum concurrency"."""
        needed = self.blocks(tokens)
        return max(0, memory) // self.block_bytes / needed if needed else float("inf")

    def longest(self, memory: int, most: int, sequences: float = 1) -> int:
        """Return the longest context with which so many sequences fit; 0 if not one token does."""
        if not self.groups:
            return most
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.concurrency(memory, middle) >= sequences:
                low = middle
            else:
                high = middle - 1
        return low

    @property
    def token_bytes(self) -> float:
        """What a token adds to a long sequence, which no window forgets."""
        return sum(
            self.block_bytes / group.block_tokens
            for group in self.groups
            if isinstance(group.layer, Attention) and group.layer.keeps_all
        )


def lay_out(
    layers: list[Layer],
    element_bytes: float,
    *,
    in_flight_tokens: int = 0,
    prefix_caching: bool = True,
    block_tokens: int = BLOCK_TOKENS,
) -> KVCache:
    """Return the layout of the layers' KV cache.

    Its keys and values are numbers of `element_bytes`. A block has `block_tokens`, unless states
    make it larger. See `KVCache` for the rest.

    Raises:
        FitError: vLLM has no layout for such layers, or this module doesn't know it.
    """
    if not layers:
        return KVCache(1, [], in_flight_tokens, prefix_caching)
    kinds = Counter(layers)
    tokens = dict.fromkeys(kinds, block_tokens)
    pages = {layer: _page(layer, element_bytes, block_tokens) for layer in kinds}
    if _are_one_group(list(kinds)):
        # Layers of different sizes still need the same number of blocks.
        group = Group(layers[0], len(layers), block_tokens)
        return KVCache(
            sum(pages[layer] * count for layer, count in kinds.items()),
            [group],
            in_flight_tokens,
            prefix_caching,
        )
    if any(isinstance(layer, State) for layer in kinds):
        tokens, pages = _aligned(list(kinds), element_bytes, block_tokens)
    page = max(pages.values())
    for layer, size in pages.items():
        if isinstance(layer, State) or page == size:
            continue
        if page % size == 0:
            tokens[layer] *= page // size
        elif layer.latent:
            raise FitError("vLLM has no common block size for this model's layers")
    groups = _grouped(kinds, tokens)
    width = max(group.layers for group in groups)
    return KVCache(page * width, groups, in_flight_tokens, prefix_caching)


def _page(layer: Layer, element_bytes: float, block_tokens: int) -> int:
    if isinstance(layer, State):
        return layer.size_bytes
    return int(layer.elements * element_bytes * block_tokens)


def _are_one_group(kinds: list[Layer]) -> bool:
    if len(kinds) == 1:
        return True
    attention = [layer for layer in kinds if isinstance(layer, Attention)]
    needs = {(layer.window, layer.chunk) for layer in attention}
    return len(attention) == len(kinds) and len(needs) == 1


def _aligned(
    kinds: list[Layer], element_bytes: float, block_tokens: int
) -> tuple[dict[Layer, int], dict[Layer, int]]:
    """Make blocks of tokens as large as a state, and states as large as those."""
    attention = [layer for layer in kinds if isinstance(layer, Attention)]
    state = max(layer.size_bytes for layer in kinds if isinstance(layer, State))
    token = max(_page(layer, element_bytes, 1) for layer in attention)
    step = block_tokens
    if any(layer.latent for layer in attention):
        step = max(step, _LATENT_BLOCK_TOKENS)
    size = max(block_tokens, step * _divided_up(state, step * token))
    tokens = dict.fromkeys(kinds, size)
    pages: dict[Layer, int] = dict.fromkeys(kinds, max(size * token, state))
    pages |= {layer: _page(layer, element_bytes, size) for layer in attention}
    return tokens, pages


def _grouped(kinds: Counter[Layer], tokens: dict[Layer, int]) -> list[Group]:
    fewest, most = min(kinds.values()), max(kinds.values())
    size = most if most < fewest * _PADDING_PAYS else fewest
    groups = []
    for layer, count in kinds.items():
        number = _divided_up(count, size)
        groups += [
            Group(layer, len(range(index, count, number)), tokens[layer]) for index in range(number)
        ]
    return groups


def _divided_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
