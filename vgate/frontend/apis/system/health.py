"""``GET /health``: this process lives. ``GET /ready``: a request would be served now."""

from __future__ import annotations

import time

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

_HEALTHY = Response(200, msgspec.json.encode({"status": "ok", "version": __version__}), [JSON])


async def health(_services: Services, _request: HttpRequest) -> Response:
    """Answer that the process lives."""
    return _HEALTHY


async def ready(services: Services, _request: HttpRequest) -> Response:
    """Answer 200 if a request would be served now, and 503 with the reason if not."""
    reason = services.models.not_ready_because()
    body = {
        "ready": reason is None,
        "reason": reason,
        "engines": [
            {
                "model": model.name,
                "state": model.engine.state,
                "detail": model.engine.detail,
                "for_s": round(time.time() - model.engine.since, 1),
            }
            for model in services.models.states()
        ],
    }
    return Response(503 if reason else 200, msgspec.json.encode(body), [JSON])
