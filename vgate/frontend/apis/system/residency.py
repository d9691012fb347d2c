"""``/admin/models``: each model and whether it is loaded; loads and unloads one."""

import time
from collections import Counter
from typing import Any, Literal

import msgspec

from vgate.errors import EngineOrderError, ModelNotFoundError, NotFoundError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.system.admin import asked_by
from vgate.frontend.engines import STATUS, ModelState
from vgate.frontend.http import JSON, SMALL_BYTES, HttpRequest, Response
from vgate.frontend.services import Services
from vgate.log import Log

PREFIX = "/admin/models/"

log = Log("vgate.frontend")


class UnloadOptions(msgspec.Struct, frozen=True):
    """What ``POST /admin/models/{name}/unload`` takes, if it has a body.

    Attributes:
        force: Also unload a pinned model.
    """

    force: bool = False


_decoder = msgspec.json.Decoder(UnloadOptions)


async def list_residency(services: Services, _http: HttpRequest) -> Response:
    """List the models, the main one first, with the requests that wait for each in all workers."""
    waiting = Counter(
        request.served_model
        for request in (await services.workers.requests()).requests
        if request.state == "waiting"
    )
    data = [_described(model, waiting[model.name]) for model in services.models.states()]
    return Response(200, msgspec.json.encode({"object": "list", "data": data}), [JSON])


async def order_model(services: Services, http: HttpRequest) -> Response:
    """Load or unload a model: `/admin/models/{name}/load`, `/admin/models/{name}/unload`.

    A model that is unloaded finishes what it runs, and is loaded again when a request names it.
    """
    name, _, word = http.path.removeprefix(PREFIX).rpartition("/")
    if not name or word not in ("load", "unload"):
        raise NotFoundError(f"there is no {http.path}; see {PREFIX}{{name}}/load and /unload")
    known = [model.name for model in services.models.states()]
    if name not in known:
        message = f"there is no model `{name[:200]}`; there are: {', '.join(known)}"
        raise ModelNotFoundError(message)
    body = await services.work.body(http, SMALL_BYTES)
    options = decode_request(_decoder, body, http.ignored) if body else UnloadOptions()
    action: Literal["load", "unload"] = "load" if word == "load" else "unload"
    if problem := await services.orders.order_model(name, action, force=options.force):
        raise EngineOrderError(problem)
    log.info("a model was ordered", model=name, action=action, by=asked_by(http))
    document = {"object": "model.order", "model": name, "action": action}
    return Response(200, msgspec.json.encode(document), [JSON])


def _described(model: ModelState, waiting: int) -> dict[str, Any]:
    state, status = model.engine, model.status
    away = state.state in ("unloaded", "queued", "failed")
    return {
        "object": "model",
        "model": model.name,
        "task": model.task,
        "load": model.load or "resident",
        "status": STATUS[state.state],
        "detail": state.detail,
        "for_s": round(time.time() - state.since, 1),
        "ahead": state.ahead,
        "loads": state.loads,
        "unloads": state.unloads,
        "running": 0 if away else status.running,
        "waiting": waiting,
    }
