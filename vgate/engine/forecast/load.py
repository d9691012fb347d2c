"""What an engine's requests will still take, for frontends that choose between engines. Pure."""

from collections.abc import Collection, Iterable

from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.request import Request
from vgate.wire.kv_blocks import block_seed
from vgate.wire.stats import Load

# Prompts looked up for one heartbeat: about a millisecond's work if they are long. The others count
# as if nothing of them were cached, until the next one.
_MOST_LOOK_UPS = 32


def load_of(
    running: Iterable[Request],
    waiting: Collection[Request],
    usual_tokens: int,
    blocks: CachedBlocks | None,
    prefill_tokens_per_s: float,
) -> Load:
    """Return the load of an engine. A prompt counts in full until all of it is computed.

    Args:
        running: The requests in the batch.
        waiting: Those in the queue.
        usual_tokens: What an answer has if its request doesn't say.
        blocks: What the prefix cache holds; None if that isn't followed.
        prefill_tokens_per_s: As in `Load`.
    """
    decode = 0
    starting = list(waiting)
    for request in running:
        decode += max(0, request.expected_tokens - request.generated_tokens)
        if request.generated_tokens == len(request.continued):
            starting.append(request)
    for request in waiting:
        sampling = request.sampling
        if sampling is not None:
            left = request.max_tokens - request.generated_tokens
            decode += left if sampling.ignore_eos else min(left, usual_tokens)
    prefill = sum(_prompt_tokens(request) for request in starting)
    if blocks is not None:
        _look_up(starting, blocks)
        prefill -= sum(request.likely_cached_tokens or 0 for request in starting)
    return Load(prefill, decode, prefill_tokens_per_s)


def _prompt_tokens(request: Request) -> int:
    return len(request.prompt) + len(request.continued)


def _look_up(requests: Iterable[Request], blocks: CachedBlocks) -> None:
    """Note what is cached of the prompts, unless it was looked up before."""
    left = _MOST_LOOK_UPS
    for request in requests:
        if request.likely_cached_tokens is None and request.sampling is not None:
            seed = block_seed(request.options.adapter, request.options.cache_salt)
            request.likely_cached_tokens = blocks.cached_tokens(request.prompt, seed)
            left -= 1
            if not left:
                return
