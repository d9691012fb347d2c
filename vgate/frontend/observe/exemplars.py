"""An example of a request for each bucket of the latency histograms, for OpenMetrics.

prometheus_client has no exemplars in multiprocess mode. These are this worker's own, so a scrape
shows those of the worker that answers it.
"""

import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import Histogram, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from vgate.frontend.http import HttpRequest
from vgate.wire.stats import REQUEST_S

# Of an exemplar's labels, names included (OpenMetrics 1.0, "Exemplars").
_MOST_CHARS = 128
# Clients choose ids, and the readers of this format differ in what they take for its marks.
_PLAIN_ID = re.compile(r"[\w.:/+-]+", re.ASCII)
_BOUNDS = (*map(floatToGoString, REQUEST_S), "+Inf")

# A request's id, and that of its trace if it is sampled.
Example = tuple[str, str | None]

# By the upper bounds of buckets: with seconds and Unix time.
_Latest = dict[str, tuple[Example, float, float]]
# By the histogram's name and the value of its only label.
_latest: dict[tuple[str, str], _Latest] = {}


def example_of(http: HttpRequest) -> Example:
    """Return what identifies a request."""
    return http.id, http.log_fields.get("trace_id") if http.trace is not None else None


class Latencies:
    """One series of a histogram, with the latest example of each of its buckets.

    Its `observe` takes less time than prometheus_client's, which searches the buckets one by one
    and checks its arguments.

    Args:
        histogram: Has one label.
        label: The label's value.
    """

    __slots__ = ("_bounds", "_buckets", "_latest", "_sum")

    def __init__(self, histogram: Histogram, label: str) -> None:
        series = histogram.labels(label)
        self._latest = _latest.setdefault((histogram._name, label), {})  # noqa: SLF001
        self._bounds: list[float] = series._upper_bounds  # noqa: SLF001
        self._buckets, self._sum = series._buckets, series._sum  # noqa: SLF001

    def observe(self, seconds: float, example: Example | None = None) -> None:
        """Count a time, and keep an example for its bucket; the bounds are `REQUEST_S` then."""
        bucket = bisect_left(self._bounds, seconds)
        self._sum.inc(seconds)
        self._buckets[bucket].inc(1)
        if example is not None:
            self._latest[_BOUNDS[bucket]] = example, seconds, time.time()


def with_exemplars(families: Iterable[Metric]) -> Iterator[Metric]:
    """Add the examples to the buckets of all families."""
    named = {name for name, _ in _latest.copy()}
    for family in families:
        if family.name in named:
            for place, sample in enumerate(family.samples):
                bound = sample.labels.get("le", "")
                others = [value for label, value in sample.labels.items() if label != "le"]
                found = _latest.get((family.name, "".join(others)), {}).get(bound)
                if found is not None and sample.name.endswith("_bucket"):
                    exemplar = Exemplar(_labels(*found[0]), *found[1:])
                    family.samples[place] = sample._replace(exemplar=exemplar)
        yield family


def _labels(request_id: str, trace_id: str | None) -> dict[str, str]:
    labels = {} if trace_id is None else {"trace_id": trace_id}
    size = sum(len(name) + len(value) for name, value in labels.items())
    fits = size + len("request_id") + len(request_id) <= _MOST_CHARS
    if fits and _PLAIN_ID.fullmatch(request_id):
        labels["request_id"] = request_id
    return labels
