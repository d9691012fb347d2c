"""``GET /metrics``: Prometheus' text format, or OpenMetrics where it is asked for."""

from __future__ import annotations

import asyncio

from prometheus_client.exposition import choose_encoder

from vgate.frontend.apis.system.engine_metrics import EngineCollector
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.observe.metrics import registry_of_all_workers
from vgate.frontend.services import Services


async def show_metrics(services: Services, http: HttpRequest) -> Response:
    """Answer with the counts of all workers and engines."""
    encode, content_type = choose_encoder(http.header("accept") or "")

    def collect() -> bytes:
        registry = registry_of_all_workers()
        registry.register(EngineCollector(services.models, services.cache()))
        return encode(registry)

    # Reads the files of all workers; other requests needn't wait for the disk.
    body = await asyncio.get_running_loop().run_in_executor(None, collect)
    return Response(200, body, [("content-type", content_type)])
