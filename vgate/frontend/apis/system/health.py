"""``GET /health``, ``GET /ready`` and ``GET /version``."""

import time

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.observe import count_files
from vgate.frontend.services import Services

HEALTHY = msgspec.json.encode({"status": "ok", "version": __version__})
_HEALTHY = Response(200, HEALTHY, [JSON])


async def health(_services: Services, _request: HttpRequest) -> Response:
    """Answer that the process is alive."""
    return _HEALTHY


async def ready(services: Services, _request: HttpRequest) -> Response:
    """Answer 200 if a request would be served now, and 503 with the reason if not.

    What an operator should look at meanwhile is in `warnings`.
    """
    count_files.save()
    warnings = [f"counts are in memory only: {why}" for why in count_files.in_memory_because()]
    warnings += services.ledger.problems() + services.shared_problems()
    models = services.models.states()
    warnings += [
        f"the model {model.name} can't be loaded: {model.engine.detail}"
        for model in models
        if model.load is not None and model.engine.state == "failed"
    ]
    reason = services.models.not_ready_because()
    engines = [
        {
            "model": model.name,
            "engine": replica.number,
            "replica": replica.replica,
            "state": replica.engine.state,
            "detail": replica.engine.detail,
            "for_s": round(time.time() - replica.engine.since, 1),
        }
        for model in models
        for replica in model.replicas
    ]
    body = {"ready": reason is None, "reason": reason, "warnings": warnings, "engines": engines}
    return Response(503 if reason else 200, msgspec.json.encode(body), [JSON])


async def version(services: Services, _request: HttpRequest) -> Response:
    """Answer with V-Gate's version and the name of its engine backend."""
    body = {"version": __version__, "backend": services.backend}
    return Response(200, msgspec.json.encode(body), [JSON])
