"""An example of a request for each bucket of the latency histograms, for OpenMetrics.

prometheus_client has no exemplars in multiprocess mode. These are this worker's own, so a scrape
shows those of the worker that answers it.
"""

import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
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

# By the histogram's name, the value of its only label, and the bucket: with seconds and Unix time.
_latest: dict[tuple[str, str, str], tuple[Example, float, float]] = {}


def example_of(http: HttpRequest) -> Example:
    """Return what identifies a request."""
    return http.id, http.log_fields.get("trace_id") if http.trace is not None else None


def remember(name: str, label: str, seconds: float, example: Example) -> None:
    """Keep a request as the example of its bucket. The histogram's bounds are `REQUEST_S`."""
    bound = _BOUNDS[bisect_left(REQUEST_S, seconds)]
    _latest[name, label, bound] = example, seconds, time.time()


def with_exemplars(families: Iterable[Metric]) -> Iterator[Metric]:
    """Add the examples to the buckets of all families."""
    named = {name for name, *_ in _latest.copy()}
    for family in families:
        if family.name in named:
            for place, sample in enumerate(family.samples):
                bound = sample.labels.get("le", "")
                others = [value for label, value in sample.labels.items() if label != "le"]
                found = _latest.get((family.name, "".join(others), bound))
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
