"""Metrics of the frontends, recorded per request and shared by files among all workers.

prometheus_client's multiprocess mode keeps each worker's counts in memory-mapped files in
``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported. The successor of a
worker that died goes on with its files, so a total never goes back. All label values are from
bounded sets.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector

from vgate.errors import CODES
from vgate.frontend.observe.count_files import AllWorkers
from vgate.wire.stats import REQUEST_S, STEP_S

OTHER = "other"

# The fields that have a series of their own in `IGNORED`.
_MAX_IGNORED = 64
_ignored: set[str] = set()

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
TTFT = _histogram(
    "vgate_ttft_seconds", "Time from a request's arrival to its first token.", "model", REQUEST_S
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
RATE_LIMITED = _counter(
    "vgate_rate_limited_requests", "Requests refused by a limit of their key.", "key", "limit"
)


def show_zeros() -> None:
    """Create the series of every error.

    Prometheus sees no increase in a series that starts with its first event.
    """
    for code in CODES:
        REJECTED.labels(code)


def show_zeros_of_key(name: str) -> None:
    """Create the series of a key, for the same reason."""
    for limit in ("requests", "tokens", "concurrent"):
        RATE_LIMITED.labels(name, limit)


# The caches below are there because finding a series by its labels takes longer than counting.


@cache
def _requests_of(endpoint: str, method: str, status: int) -> Counter:
    return REQUESTS.labels(endpoint, method, str(status))


@cache
def _latency_of(endpoint: str) -> Histogram:
    return LATENCY.labels(endpoint)


@cache
def _series_of(model: str) -> tuple[Counter, Counter, Histogram, Histogram]:
    tokens = PROMPT_TOKENS.labels(model), GENERATED_TOKENS.labels(model)
    return *tokens, TTFT.labels(model), TPOT.labels(model)


def record(endpoint: str, method: str, status: int, seconds: float, error: str | None) -> None:
    """Record an answered request.

    Args:
        endpoint: The route's path, or OTHER.
        method: The request's method; an unknown one counts as OTHER.
        status: The response's status.
        seconds: Time from arrival to end.
        error: The code of the error that it ended in.
    """
    _requests_of(endpoint, method if method in _METHODS else OTHER, status).inc()
    _latency_of(endpoint).observe(seconds)
    if error is not None:
        REJECTED.labels(error).inc()


def record_ignored(field: str) -> bool:
    """Count a field that has no effect; return whether it is the first time in this process.

    Clients choose the names of unknown fields, so only the first ones have series of their own.
    """
    first = field not in _ignored
    if first and len(_ignored) >= _MAX_IGNORED:
        IGNORED.labels(OTHER).inc()
        return False
    _ignored.add(field)
    IGNORED.labels(field).inc()
    return first


def record_generated(
    model: str, prompt: int, completion: int, ttft_s: float | None, decode_s: float, *, shared: bool
) -> None:
    """Record a generated answer.

    Args:
        model: Its served name.
        prompt: Prompt tokens.
        completion: Generated tokens.
        ttft_s: Seconds to the first token, if there was one.
        decode_s: Seconds from the first token to the last.
        shared: It was another request's sequence, whose tokens are counted there.
    """
    prompt_tokens, generated_tokens, ttft, tpot = _series_of(model)
    if shared:
        COALESCED.inc()
    else:
        prompt_tokens.inc(prompt)
        generated_tokens.inc(completion)
    if ttft_s is not None:
        ttft.observe(ttft_s)
        if completion > 1:
            tpot.observe(decode_s / (completion - 1))


class _WithoutKeys(Collector):
    """The counts of all workers, with those of all keys together."""

    def collect(self) -> Iterator[Metric]:
        for family in AllWorkers(None).collect():
            if any("key" in sample.labels for sample in family.samples):
                samples, family.samples = family.samples, []
                sums: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float]
                sums = defaultdict(float)
                for sample in samples:
                    labels = [label for label in sample.labels.items() if label[0] != "key"]
                    sums[sample.name, tuple(labels)] += sample.value
                for (name, others), value in sums.items():
                    family.add_sample(name, dict(others), value)
            yield family


def registry_of_all_workers(*, names_keys: bool = True) -> CollectorRegistry:
    """Return a registry that reads the counts of all workers, dead ones included."""
    registry = CollectorRegistry()
    if names_keys:
        AllWorkers(registry)
    else:
        registry.register(_WithoutKeys())
    return registry
