"""How long the router takes for a decision."""

import random
import time

from bench.routing.simulation import BLOCK_TOKENS
from vgate.config.schema import Routing
from vgate.frontend.routing import Replica, Router
from vgate.wire.codec import pack_token_ids
from vgate.wire.kv_blocks import KvBlocks, block_keys, block_seed, pack_keys
from vgate.wire.messages import Generate
from vgate.wire.parameters import DEFAULTS

_PROMPTS = 200
# What others have: as many blocks as 64,000 tokens.
_OTHERS = 1000


def decision_s(policy: str, replicas: int = 4, prompt_tokens: int = 4000) -> float:
    """Return the median time of choosing, and of the account until the request's end.

    Each prompt is in one of the replicas but for its last hundred tokens, and half of it in all.
    """
    settings = Routing(policy=policy)  # type: ignore[arg-type]
    router = Router(settings, time.monotonic, 1)
    some = [Replica(str(number)) for number in range(replicas)]
    chance = random.Random(1)
    shared = [chance.randrange(100_000) for _ in range(prompt_tokens // 2)]
    prompts = [
        pack_token_ids(
            [*shared, *(chance.randrange(100_000) for _ in range(prompt_tokens - len(shared)))]
        )
        for _ in range(_PROMPTS)
    ]
    for number, replica in enumerate(some):
        keys = [chance.randrange(1 << 60) for _ in range(_OTHERS)]
        for prompt in prompts[number::replicas]:
            keys += block_keys(prompt[:-400], BLOCK_TOKENS, block_seed("", ""))
        router.blocks(replica, KvBlocks(1, BLOCK_TOKENS, reset=True))
        for start in range(0, len(keys), 8192):
            packed = pack_keys(keys[start : start + 8192])
            router.blocks(replica, KvBlocks(replica.next_number, BLOCK_TOKENS, packed))
    messages = [Generate(n, prompt, DEFAULTS) for n, prompt in enumerate(prompts)]
    times_s = []
    for _ in range(5):
        for message in messages:
            began = time.perf_counter()
            ticket = router.choose(some, message)
            ticket.started()
            ticket.ended(100)
            times_s.append(time.perf_counter() - began)
    return sorted(times_s)[len(times_s) // 2]
