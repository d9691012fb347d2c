"""``GET /health``, ``/ready``, ``/ping``, ``/load`` and ``/version``."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from vgate import __version__
from vgate.errors import SHUTTING_DOWN
from vgate.frontend.engines import ModelState
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.observe import count_files
from vgate.frontend.services import Services

HEALTHY = msgspec.json.encode({"status": "ok", "version": __version__})
_HEALTHY = Response(200, HEALTHY, [JSON])


async def health(_services: Services, _request: HttpRequest) -> Response:
    """Answer that the process is alive."""
    return _HEALTHY


async def ping(services: Services, _request: HttpRequest) -> Response:
    """Answer 200 if a request would be served now, and 503 if not, for SageMaker; as in vLLM.

    No key is needed, so the answer gives neither a reason nor a model's name.
    """
    return Response(503 if services.models.not_ready_because() else 200, b"")


async def load(services: Services, _request: HttpRequest) -> Response:
    """Answer with the number of sequences that run or wait in all engines, for load balancers."""
    states = [state.status for state in services.models.states()]
    body = {"server_load": sum(status.running + status.waiting for status in states)}
    return Response(200, msgspec.json.encode(body), [JSON])


class _Told(msgspec.Struct, frozen=True):
    """What a visitor may be told of a model.

    Attributes:
        name: A name that the visitor may use; None for one without an API key.
        has_details: Whether the launcher's words may be passed on, which have names, too.
    """

    name: str | None
    has_details: bool
    state: ModelState

    @property
    def reason(self) -> str | None:
        """Why the model would not serve a request; None if it would."""
        reason, state = self.state.not_ready_because, self.state.engine.state
        if reason is None or self.has_details:
            return reason
        return f"the engine is {'being connected' if state == 'ready' else state}"

    @property
    def warning(self) -> str | None:
        """What an operator should look at."""
        if self.state.load is None or self.state.engine.state != "failed":
            return None
        why = f": {self.state.engine.detail}" if self.has_details else ""
        return f"{f'the model {self.name}' if self.name else 'a model'} can't be loaded{why}"

    def engines(self) -> list[dict[str, Any]]:
        """Return the state of each engine."""
        return [
            {
                "model": self.name,
                "engine": replica.number,
                "replica": replica.replica,
                "state": replica.engine.state,
                "detail": replica.engine.detail if self.has_details else "",
                "for_s": round(time.time() - replica.engine.since, 1),
            }
            for replica in self.state.replicas
        ]


async def ready(services: Services, http: HttpRequest) -> Response:
    """Answer 200 if a request would be served now, and 503 with the reason if not.

    With an API key it is about the models that the key may use. Without one, where keys are
    required, it is about all, and names none. What an operator should look at meanwhile is in
    `warnings`.
    """
    count_files.save()
    warnings = [f"counts are in memory only: {why}" for why in count_files.in_memory_because()]
    warnings += services.ledger.problems() + services.shared_problems()
    models = _told(services, http)
    warnings += dict.fromkeys(model.warning for model in models if model.warning)
    reason = _not_ready_because(services, models)
    engines = [engine for model in models for engine in model.engines()]
    body = {
        "ready": reason is None,
        "reason": reason,
        "warnings": warnings,
        "states": Counter(engine["state"] for engine in engines),
        "engines": [engine for engine in engines if engine["model"] is not None],
    }
    return Response(503 if reason else 200, msgspec.json.encode(body), [JSON])


def _told(services: Services, http: HttpRequest) -> list[_Told]:
    """Return the models that a visitor may know of, as `GET /v1/models` has them."""
    states, key = services.models.states(), services.visitor(http)
    if key is None:
        return [_Told(None, has_details=False, state=state) for state in states]
    allowed = None if key.admin else services.models.allowed(key)
    if allowed is None:
        return [_Told(state.name, has_details=True, state=state) for state in states]
    usable = [(state, [name for name in state.names if name in allowed]) for state in states]
    return [_Told(own[0], state.name in own, state) for state, own in usable if own]


def _not_ready_because(services: Services, models: Sequence[_Told]) -> str | None:
    whole = services.models.not_ready_because()
    if whole is None or whole == SHUTTING_DOWN:
        return whole
    reasons = [(model.name, model.reason) for model in models if model.reason is not None]
    if not reasons:
        return None
    (name, reason), count = reasons[0], len(models)
    if count == 1:
        return reason
    return f"{name or f'{len(reasons)} of {count} models'}: {reason}"


async def version(services: Services, _request: HttpRequest) -> Response:
    """Answer with V-Gate's version and the name of its engine backend."""
    body = {"version": __version__, "backend": services.backend}
    return Response(200, msgspec.json.encode(body), [JSON])
