"""Metrics of the frontends, recorded per request and shared by files among all workers.

prometheus_client's multiprocess mode keeps each worker's counts in memory-mapped files in
``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported. The successor of a
worker that died goes on with its files, so a total never goes back. All label values are from
bounded sets.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector

from vgate.errors import CODES
from vgate.frontend.observe.count_files import AllWorkers
from vgate.frontend.observe.exemplars import Example, Latencies, with_exemplars
from vgate.log import Log
from vgate.usage import Used
from vgate.wire.stats import REQUEST_S, STEP_S

OTHER = "other"
TTFT_NAME = "vgate_ttft_seconds"

# The fields, API keys and engines that have series of their own: the first ones of the process.
_MAX_IGNORED, _MAX_KEYS, _MAX_REPLICAS = 64, 1000, 1000
_ignored, _keys, _replicas = set[str](), set[str](), set[str]()

_Add = Callable[[float], None]

log = Log("vgate.frontend")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Filled by the definitions below; `/metrics` collects from the files of all workers instead.
_registry = CollectorRegistry()


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=_registry)


def _histogram(name: str, text: str, label: str, bounds: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, (label,), buckets=bounds, registry=_registry)


REQUESTS = _counter("vgate_requests", "HTTP requests answered.", "endpoint", "method", "status")
LATENCY = _histogram(
    "vgate_request_latency_seconds",
    "Time from a request's arrival to the end of its answer.",
    "endpoint",
    REQUEST_S,
)
GENERATION = _histogram(
    "vgate_generation_latency_seconds",
    "Time from a request's arrival to its last token.",
    "model",
    REQUEST_S,
)
TTFT = _histogram(
    TTFT_NAME, "Time from a request's arrival to its first token.", "model", REQUEST_S
)
TPOT = _histogram(
    "vgate_tpot_seconds",
    "Mean time per output token after the first, of each request.",
    "model",
    STEP_S,
)
PROMPT_TOKENS = _counter("vgate_prompt_tokens", "Prompt tokens of requests.", "model")
GENERATED_TOKENS = _counter("vgate_tokens_generated", "Tokens generated for answers.", "model")
CACHE_HITS = _counter("vgate_cache_hits", "Answers given from the result cache.")
CACHE_MISSES = _counter("vgate_cache_misses", "Requests that the result cache had no answer for.")
CACHE_EVICTIONS = _counter(
    "vgate_cache_evictions", "Answers dropped from the result cache to make room, by each worker."
)
COALESCED = _counter("vgate_coalesced_requests", "Requests that joined an identical one in flight.")
RESUMED = _counter(
    "vgate_resumed_requests", "Requests that were given to another engine because theirs died."
)
HELD = _counter(
    "vgate_held_sequences", "Sequences that came while no engine was there, and waited for one."
)
MODEL_WAIT = _histogram(
    "vgate_model_wait_seconds",
    "Time that requests waited for their model to be loaded.",
    "model",
    REQUEST_S,
)
ROUTED = _counter(
    "vgate_routed_sequences",
    "Sequences given to one of several engines of a model, by engine and reason.",
    *("model", "replica", "reason"),
)
ROUTED_TOKENS = _counter(
    "vgate_routed_prompt_tokens", "Tokens of their prompts.", "model", "replica"
)
PREFIX_HITS = _counter(
    "vgate_prefix_hit_tokens", "Those that the engine had in its KV cache.", "model", "replica"
)
REJECTED = _counter(
    "vgate_rejected_requests", "Requests that ended in an error, by its code.", "reason"
)
IGNORED = _counter(
    "vgate_ignored_fields", "Requests with a field that has no effect, by the field.", "field"
)
NOT_STORED = _counter(
    "vgate_responses_not_stored",
    "Responses that were to be stored and weren't: too many waited, or the disk failed.",
)
SPANS_LOST = _counter(
    "vgate_spans_lost",
    "Spans of traces that were not delivered: too many waited, or the collector failed.",
    "reason",
)
RATE_LIMITED = _counter(
    "vgate_rate_limited_requests", "Requests refused by a limit of their key.", "key", "limit"
)
# Only where `state.url` is set: a series exists with its first event, or by `show_state_zeros`.
STATE_AWAY_S = _counter(
    "vgate_state_away_seconds", "Time for which the shared server could not be used.", "mode"
)
STATE_FAILURES = _counter(
    "vgate_state_failures", "Times that the shared server was lost, by the reason.", "reason"
)
STATE_WITHOUT = _counter(
    "vgate_state_decisions_without",
    "Requests decided on without the shared server: by local limits, or refused.",
    "outcome",
)
STATE_CACHE = _counter(
    "vgate_state_cache_lookups",
    "Look-ups of answers in the shared server, by what came of them.",
    "outcome",
)
# Only where `metrics.per_key` is on.
KEY_REQUESTS = _counter("vgate_key_requests", "Requests in the ledger, by key.", "key")
KEY_ERRORS = _counter("vgate_key_errors", "Those that ended in an error, by key.", "key")
KEY_TOKENS = _counter(
    "vgate_key_tokens",
    "Tokens in the ledger, by key. Those of prompts include cached ones, completions reasoning.",
    "key",
    "kind",
)


def show_zeros() -> None:
    """Create the series of every error.

    Prometheus sees no increase in a series that starts with its first event.
    """
    for code in CODES:
        REJECTED.labels(code)


def show_state_zeros(mode: str) -> None:
    """Create the series of a shared server; `mode` is what happens while it is away."""
    STATE_AWAY_S.labels(mode)
    for outcome in ("local", "refused"):
        STATE_WITHOUT.labels(outcome)
    for outcome in ("hit", "miss", "slow", "skipped"):
        STATE_CACHE.labels(outcome)


def show_zeros_of_key(name: str) -> None:
    """Create the series of a key, for the same reason."""
    for limit in ("requests", "tokens", "concurrent", "budget"):
        RATE_LIMITED.labels(name, limit)


# The caches below are there because finding a series by its labels takes longer than counting.


def _adds(counter: Counter) -> _Add:
    """Return the function that adds to a series, without prometheus_client's checks."""
    add: _Add = counter._value.inc  # noqa: SLF001
    return add


@cache
def _answered(endpoint: str, method: str, status: int) -> tuple[_Add, Latencies]:
    return _adds(REQUESTS.labels(endpoint, method, str(status))), Latencies(LATENCY, endpoint)


@cache
def _series_of(model: str) -> tuple[_Add, _Add, Latencies, Latencies, Latencies]:
    tokens = _adds(PROMPT_TOKENS.labels(model)), _adds(GENERATED_TOKENS.labels(model))
    return *tokens, Latencies(TTFT, model), Latencies(TPOT, model), Latencies(GENERATION, model)


@cache
def _routed_of(model: str, replica: str, reason: str) -> tuple[Counter, Counter, Counter]:
    tokens = ROUTED_TOKENS.labels(model, replica), PREFIX_HITS.labels(model, replica)
    return ROUTED.labels(model, replica, reason), *tokens


def _bounded(value: str, known: set[str], most: int) -> str:
    """Return a label's value, or OTHER if it isn't among the first `most`."""
    if value not in known:
        if len(known) >= most:
            return OTHER
        known.add(value)
    return value


def record(
    endpoint: str, method: str, status: int, seconds: float, error: str | None, example: Example
) -> None:
    """Record an answered request, whose endpoint is the route's path, or OTHER.

    An unknown method counts as OTHER. It took `seconds` from its arrival to its end, and `error` is
    the code of the error that it ended in.
    """
    add, latency = _answered(endpoint, method if method in _METHODS else OTHER, status)
    add(1)
    latency.observe(seconds, example)
    if error is not None:
        REJECTED.labels(error).inc()


def record_routed(model: str, replica: str, reason: str, tokens: int, cached: int) -> None:
    """Record a sequence that was given to one of several engines.

    Engines come and go under new addresses, so only the first ones have series of their own.
    """
    replica = _bounded(replica, _replicas, _MAX_REPLICAS)
    sequences, prompt_tokens, hits = _routed_of(model, replica, reason)
    sequences.inc()
    prompt_tokens.inc(tokens)
    hits.inc(cached)


def record_ignored(fields: Iterable[str], path: str) -> None:
    """Count fields that have no effect, of a request to `path`, and name each in the log once.

    Clients choose the names of unknown fields, so only the first ones have series of their own.
    """
    for field in fields:
        known = len(_ignored)
        IGNORED.labels(_bounded(field, _ignored, _MAX_IGNORED)).inc()
        if len(_ignored) > known:
            log.warning(
                "ignored a request field that has no effect; logged once for each field",
                field=field,
                path=path,
            )


def record_generated(
    model: str,
    tokens: tuple[int, int],
    times_s: tuple[float | None, float],
    example: Example,
    *,
    shared: bool,
) -> None:
    """Record a generated answer.

    Args:
        model: Its served name.
        tokens: Of the prompt, and generated ones.
        times_s: To the first token, if there was one, and from it to the last.
        example: What identifies it.
        shared: It was another request's sequence, whose tokens are counted there.
    """
    add_prompt, add_generated, ttft, tpot, whole = _series_of(model)
    (prompt, completion), (ttft_s, decode_s) = tokens, times_s
    if shared:
        COALESCED.inc()
    else:
        add_prompt(prompt)
        add_generated(completion)
    if ttft_s is not None:
        ttft.observe(ttft_s, example)
        whole.observe(ttft_s + decode_s, example)
        if completion > 1:
            tpot.observe(decode_s / (completion - 1))


def record_key(key: str, used: Used) -> None:
    """Record what a key used. Only the first ones of a process have series of their own."""
    key = _bounded(key, _keys, _MAX_KEYS)
    KEY_REQUESTS.labels(key).inc(used.requests)
    KEY_ERRORS.labels(key).inc(used.errors)
    for kind, tokens in (
        ("prompt", used.prompt_tokens),
        ("cached", used.cached_tokens),
        ("completion", used.completion_tokens),
        ("reasoning", used.reasoning_tokens),
    ):
        KEY_TOKENS.labels(key, kind).inc(tokens)


class AllCounts(Collector):
    """The counts of all workers, dead ones included.

    Args:
        names_keys: Whether it has the names of keys.
        has_examples: Whether it has the ids of some requests, which clients may have chosen.
    """

    def __init__(self, *, names_keys: bool = True, has_examples: bool = False) -> None:
        self._names_keys = names_keys
        self._has_examples = has_examples

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        families = AllWorkers(None).collect()  # type: ignore[no-untyped-call]
        if not self._names_keys:
            families = map(_without_keys, families)
        yield from with_exemplars(families) if self._has_examples else families


def _without_keys(family: Metric) -> Metric:
    """Add up the counts of all keys."""
    if any("key" in sample.labels for sample in family.samples):
        samples, family.samples = family.samples, []
        sums: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        for sample in samples:
            labels = [label for label in sample.labels.items() if label[0] != "key"]
            sums[sample.name, tuple(labels)] += sample.value
        for (name, others), value in sums.items():
            family.add_sample(name, dict(others), value)
    return family
