"""``GET /``, ``GET /health``, ``GET /ready`` and ``GET /version``."""

import time

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.observe import count_files
from vgate.frontend.services import Services

_HEALTHY = Response(200, msgspec.json.encode({"status": "ok", "version": __version__}), [JSON])


async def health(_services: Services, _request: HttpRequest) -> Response:
    """Answer that the process is alive."""
    return _HEALTHY


async def ready(services: Services, _request: HttpRequest) -> Response:
    """Answer 200 if a request would be served now, and 503 with the reason if not.

    What an operator should look at meanwhile is in `warnings`.
    """
    count_files.save()
    warnings = [f"counts are in memory only: {why}" for why in count_files.in_memory_because()]
    reason = services.models.not_ready_because()
    engines = [
        {
            "model": model.name,
            "state": model.engine.state,
            "detail": model.engine.detail,
            "for_s": round(time.time() - model.engine.since, 1),
        }
        for model in services.models.states()
    ]
    body = {"ready": reason is None, "reason": reason, "warnings": warnings, "engines": engines}
    return Response(503 if reason else 200, msgspec.json.encode(body), [JSON])


async def root(_services: Services, _request: HttpRequest) -> Response:
    """Answer that there is a server, for programs that ask the base URL for it."""
    return _HEALTHY


async def version(services: Services, _request: HttpRequest) -> Response:
    """Answer with V-Gate's version and the name of its engine backend."""
    body = {"version": __version__, "backend": services.backend}
    return Response(200, msgspec.json.encode(body), [JSON])
