"""The scheduler's limits. Pure."""

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What an engine may run at once.

    Attributes:
        max_num_seqs: Most requests that run at once.
        reserved_seqs: Places beyond these for tenants that hold few or none.
        max_batch_size: A burst starts as soon as so many wait.
        max_wait_s: The longest time to gather a burst.
        start_steps: Further steps until a request's first token, where steps are scheduled ahead.
    """

    max_num_seqs: int
    kv_cache_tokens: int
    max_queue_size: int
    max_wait_s: float
    kv_block_tokens: int = 1
    max_batch_size: int = 8
    reserved_seqs: int = 0
    start_steps: int = 0
