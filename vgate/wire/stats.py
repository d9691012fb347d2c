"""An engine's statistics, and the upper bounds of their buckets, which frontends publish too."""

import msgspec

BATCH_SIZE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# Steps and gaps between tokens: from a small model on a large GPU to a prefill on a CPU.
STEP_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)

# Requests: queueing, first token, whole answer.
REQUEST_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0),
)


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations in each bucket, the last one without an upper bound, and the sum of values."""

    counts: list[int]
    total: float


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Counts since the engine's start.

    Attributes:
        batch_size: Sequences in each step.
        inter_token_s: Seconds between two tokens of a sequence: the step's time, counted for each
            sequence in it.
        queue_s: Seconds that requests waited in the queue.
        preemptions: Sequences that lost their KV cache and were recomputed.
        prefix_cache_queries, prefix_cache_hits: Prompt tokens looked up and found.
        memory_reductions: How often it was made smaller because it ran out of memory.
    """

    batch_size: Histogram
    step_s: Histogram
    inter_token_s: Histogram
    queue_s: Histogram
    preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    memory_reductions: int = 0
