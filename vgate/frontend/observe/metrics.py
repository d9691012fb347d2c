"""Metrics of the frontends, recorded per request and shared by files among all workers.

prometheus_client's multiprocess mode keeps each worker's counts in memory-mapped files in
``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported. A worker that died
leaves its counts behind, so a total never goes back.

Labels are bounded: endpoints are the routes there are, models the served ones, keys the configured
ones; whatever else a client sends is counted as "other".
"""

from __future__ import annotations

from functools import cache

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from vgate.errors import CODES
from vgate.wire.stats import REQUEST_S, STEP_S

OTHER = "other"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Filled by the definitions below; what is shown is collected from the files of all workers.
_registry = CollectorRegistry()

REQUESTS = Counter(
    "vgate_requests",
    "HTTP requests answered.",
    ("endpoint", "method", "status"),
    registry=_registry,
)
LATENCY = Histogram(
    "vgate_request_latency_seconds",
    "Time from a request's arrival to the end of its answer.",
    ("endpoint",),
    buckets=REQUEST_S,
    registry=_registry,
)
TTFT = Histogram(
    "vgate_ttft_seconds",
    "Time from a request's arrival to its first token.",
    ("model",),
    buckets=REQUEST_S,
    registry=_registry,
)
TPOT = Histogram(
    "vgate_tpot_seconds",
    "Mean time per output token after the first, of each request.",
    ("model",),
    buckets=STEP_S,
    registry=_registry,
)
PROMPT_TOKENS = Counter(
    "vgate_prompt_tokens", "Prompt tokens of requests.", ("model",), registry=_registry
)
GENERATED_TOKENS = Counter(
    "vgate_tokens_generated", "Tokens generated for answers.", ("model",), registry=_registry
)
CACHE_HITS = Counter("vgate_cache_hits", "Answers given from the result cache.", registry=_registry)
CACHE_MISSES = Counter(
    "vgate_cache_misses", "Requests that the result cache had no answer for.", registry=_registry
)
CACHE_EVICTIONS = Counter(
    "vgate_cache_evictions",
    "Answers put out of the result cache to make room, counted in each worker.",
    registry=_registry,
)
COALESCED = Counter(
    "vgate_coalesced_requests",
    "Requests that joined an identical one in flight.",
    registry=_registry,
)
RESUMED = Counter(
    "vgate_resumed_requests",
    "Requests that were given to another engine because theirs died.",
    registry=_registry,
)
REJECTED = Counter(
    "vgate_rejected_requests",
    "Requests that ended in an error, by its code.",
    ("reason",),
    registry=_registry,
)
RATE_LIMITED = Counter(
    "vgate_rate_limited_requests",
    "Requests refused by a limit of their key.",
    ("key", "limit"),
    registry=_registry,
)


def show_zeros() -> None:
    """Make the series of every error.

    A series that begins with its first event hides it: Prometheus sees no increase.
    """
    for code in CODES:
        REJECTED.labels(code)


def show_zeros_of_key(name: str) -> None:
    """Make the series of a key, for the same reason."""
    for limit in ("requests", "tokens", "concurrent"):
        RATE_LIMITED.labels(name, limit)


class Finished(msgspec.Struct, frozen=True):
    """What is recorded of an answered request.

    Attributes:
        endpoint: The route's path, or OTHER.
        method, status: Of the request and its answer.
        seconds: From arrival to end.
        error: Code of the error that it ended in, if it did.
    """

    endpoint: str
    method: str
    status: int
    seconds: float
    error: str | None


def record(finished: Finished) -> None:
    """Record an answered request."""
    method = finished.method if finished.method in _METHODS else OTHER
    _requests_of(finished.endpoint, method, finished.status).inc()
    _latency_of(finished.endpoint).observe(finished.seconds)
    if finished.error is not None:
        REJECTED.labels(finished.error).inc()


class Generated(msgspec.Struct, frozen=True):
    """What is recorded of a generated answer.

    Attributes:
        model: Its served name.
        prompt_tokens, completion_tokens: TokenCounts.
        ttft_s: Seconds to the first token, if there was one.
        decode_s: Seconds from the first token to the last.
        shared: It was another request's sequence, so its tokens count there.
    """

    model: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None
    decode_s: float
    shared: bool


def record_generated(generated: Generated) -> None:
    """Record a generated answer."""
    prompt_tokens, generated_tokens, ttft, tpot = _series_of(generated.model)
    if not generated.shared:
        prompt_tokens.inc(generated.prompt_tokens)
        generated_tokens.inc(generated.completion_tokens)
    if generated.ttft_s is not None:
        ttft.observe(generated.ttft_s)
        if generated.completion_tokens > 1:
            tpot.observe(generated.decode_s / (generated.completion_tokens - 1))


# Finding a series by its labels takes longer than counting in it. There are few, see the module.


@cache
def _requests_of(endpoint: str, method: str, status: int) -> Counter:
    return REQUESTS.labels(endpoint, method, str(status))


@cache
def _latency_of(endpoint: str) -> Histogram:
    return LATENCY.labels(endpoint)


@cache
def _series_of(model: str) -> tuple[Counter, Counter, Histogram, Histogram]:
    return (
        PROMPT_TOKENS.labels(model),
        GENERATED_TOKENS.labels(model),
        TTFT.labels(model),
        TPOT.labels(model),
    )


def registry_of_all_workers() -> CollectorRegistry:
    """Return a registry that reads the counts of all workers, dead ones included."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
