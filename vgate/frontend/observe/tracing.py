"""Chooses what makes traces. OpenTelemetry is loaded only where tracing is configured."""

import asyncio
from typing import TYPE_CHECKING

from vgate.config.schema import Tracing
from vgate.log import Log

if TYPE_CHECKING:
    from vgate.frontend.observe.sdk_traces import SdkTraces

log = Log("vgate.frontend")


def traces_of(
    loop: asyncio.AbstractEventLoop, settings: Tracing, worker: int
) -> "SdkTraces | None":
    """Return what traces a worker's requests; None if tracing is off."""
    if not settings.enabled:
        return None
    try:
        from vgate.frontend.observe.sdk_traces import SdkTraces
    except ImportError:
        if settings.endpoint is not None:
            raise
        # Kubernetes may give the variable to every container.
        log.warning(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the OpenTelemetry SDK is not "
            "installed (pip install 'vgate[otel]')"
        )
        return None
    return SdkTraces(loop, settings, worker)
