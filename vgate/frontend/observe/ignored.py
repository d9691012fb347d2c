"""Counts request fields that have no effect, and names each in the log once."""

from collections.abc import Iterable

from vgate.frontend.observe import metrics
from vgate.log import Log

log = Log("vgate.frontend")


def report_ignored(fields: Iterable[str], path: str) -> None:
    """Report the fields of a request to `path`."""
    for field in fields:
        if metrics.record_ignored(field):
            log.warning(
                "ignored a request field that has no effect; logged once for each field",
                field=field,
                path=path,
            )
