"""``/admin/engines``: each engine and its load; drains, resumes and restarts one."""

import time
from typing import Any, Literal

import msgspec

from vgate.errors import EngineOrderError, NotFoundError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.system.admin import asked_by
from vgate.frontend.engines import ModelState, ReplicaState
from vgate.frontend.http import JSON, SMALL_BYTES, HttpRequest, Response
from vgate.frontend.services import Services
from vgate.log import Log

PREFIX = "/admin/engines/"

log = Log("vgate.frontend")


class EngineOptions(msgspec.Struct, frozen=True):
    """What ``POST /admin/engines/{number}/drain`` takes, if it has a body.

    Attributes:
        restart: Start the engine again once its requests are done, instead of keeping it out.
        force: Also if no other engine serves the model.
    """

    restart: bool = False
    force: bool = False


_decoder = msgspec.json.Decoder(EngineOptions)


async def list_engines(services: Services, _http: HttpRequest) -> Response:
    """List the engines of all models, with their states and loads."""
    data = [
        _described(model, replica)
        for model in services.models.states()
        for replica in model.replicas
    ]
    return Response(200, msgspec.json.encode({"object": "list", "data": data}), [JSON])


async def order(services: Services, http: HttpRequest) -> Response:
    """Drain or resume an engine: `/admin/engines/{number}/drain`, `/admin/engines/{number}/resume`.

    A drained engine finishes what it has, takes nothing new and stays loaded until it is resumed.
    """
    number, _, word = http.path.removeprefix(PREFIX).partition("/")
    if word not in ("drain", "resume"):
        raise NotFoundError(f"there is no {http.path}; see {PREFIX}{{number}}/drain and /resume")
    known = {r.number for model in services.models.states() for r in model.replicas}
    if number not in map(str, known):  # it may have more digits than Python reads
        numbers = ", ".join(map(str, sorted(known)))
        raise NotFoundError(f"there is no engine `{number[:80]}`; there are: {numbers}")
    body = await services.work.body(http, SMALL_BYTES)
    options = decode_request(_decoder, body, http.ignored) if body else EngineOptions()
    action: Literal["drain", "resume", "restart"] = "resume"
    if word == "drain":
        action = "restart" if options.restart else "drain"
    if problem := await services.orders.order(int(number), action, force=options.force):
        raise EngineOrderError(problem)
    log.info("an engine was ordered", engine=int(number), action=action, by=asked_by(http))
    document = {"object": "engine.order", "engine": int(number), "action": action}
    return Response(200, msgspec.json.encode(document), [JSON])


def _described(model: ModelState, replica: ReplicaState) -> dict[str, Any]:
    state, status = replica.engine, replica.status
    return {
        "object": "engine",
        "engine": replica.number,
        "model": model.name,
        "replica": replica.replica,
        "state": state.state,
        "detail": state.detail,
        "for_s": round(time.time() - state.since, 1),
        "serves": replica.serves,
        "restarts": state.restarts,
        "running": status.running,
        "waiting": status.waiting,
        "kv_cache_usage": round(status.kv_cache_usage, 4),
    }
