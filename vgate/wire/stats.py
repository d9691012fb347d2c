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

# Tokens of prompts and answers.
LENGTHS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations in each bucket, the last one without an upper bound, and the sum of values."""

    counts: list[int]
    total: float


def _zeros(bounds: tuple[float, ...]) -> Histogram:
    return Histogram([0] * (len(bounds) + 1), 0.0)


class Gpu(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The memory of a GPU, of which others may use a part. `number` is the driver's."""

    number: int
    used_bytes: int
    total_bytes: int


class Load(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an engine's requests, waiting and running, will still take.

    Attributes:
        prefill_tokens: Prompt tokens to compute, those that are waiting without what may be cached.
        decode_tokens: Output tokens to generate, as far as their number can be foreseen.
        prefill_tokens_per_s: How fast it computes prompts when it does nothing else, as measured; 0
            if it has computed none yet.
    """

    prefill_tokens: int = 0
    decode_tokens: int = 0
    prefill_tokens_per_s: float = 0.0


NO_LOAD = Load()


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Counts since the engine's start.

    Attributes:
        batch_size: Sequences in each step.
        inter_token_s: Seconds between two tokens of a sequence: the step's time, counted for each
            sequence in it.
        queue_s: Seconds that requests waited in the queue.
        prefill_s: Seconds from the start of a sequence to its first token.
        preemptions: Sequences that lost their KV cache and were recomputed.
        prefix_cache_queries, prefix_cache_hits: Prompt tokens looked up and found.
        memory_reductions: How often it was made smaller because it ran out of memory.
        finished_stop, finished_length: Sequences that were complete, by their finish reason.
        prompt_tokens, generated_tokens, decode_s: Of these, and their seconds after the first
            token.
        draft_tokens, accepted_draft_tokens: Tokens that were drafted, and those that were right.
    """

    batch_size: Histogram
    step_s: Histogram
    inter_token_s: Histogram
    queue_s: Histogram
    prefill_s: Histogram
    preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    memory_reductions: int = 0
    finished_stop: int = 0
    finished_length: int = 0
    prompt_tokens: Histogram = _zeros(LENGTHS)
    generated_tokens: Histogram = _zeros(LENGTHS)
    decode_s: Histogram = _zeros(REQUEST_S)
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


NO_STATS = EngineStats(
    *(_zeros(BATCH_SIZE), _zeros(STEP_S), _zeros(STEP_S), _zeros(REQUEST_S), _zeros(REQUEST_S)),
    preemptions=0,
    prefix_cache_queries=0,
    prefix_cache_hits=0,
)
