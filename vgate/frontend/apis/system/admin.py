"""``/admin``: what the operator sees and does, in all workers."""

from typing import Literal

import msgspec

from vgate.errors import NotFoundError
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.pipeline import RequestInfo
from vgate.frontend.services import Services

REQUESTS = "/admin/requests/"
_CANCEL = "/cancel"


class RequestList(msgspec.Struct, frozen=True):
    """The running requests of all workers, the oldest first.

    Attributes:
        total: How many there are; `data` has the oldest 1,000 at most.
        silent_workers: The workers that did not answer in time, whose requests are missing.
    """

    data: list[RequestInfo]
    has_more: bool
    total: int
    silent_workers: list[str]
    object: Literal["list"] = "list"


class CancelledRequest(msgspec.Struct, frozen=True):
    """A request that was cancelled."""

    id: str
    cancelled: Literal[True] = True
    object: Literal["request"] = "request"


async def list_requests(services: Services, _http: HttpRequest) -> Response:
    """List the running requests of all workers."""
    found = await services.workers.requests()
    more = found.count > len(found.requests)
    body = RequestList(found.requests, more, found.count, found.silent)
    return Response(200, msgspec.json.encode(body), [JSON])


async def cancel_request(services: Services, http: HttpRequest) -> Response:
    """End a running request by an error: `/admin/requests/{id}/cancel`.

    Clients choose the ids of their requests; if several that run have this one, all of them end.
    """
    name = http.path.removeprefix(REQUESTS)
    if not name.endswith(_CANCEL):
        raise NotFoundError(f"there is no {http.path}; see {REQUESTS}{{id}}{_CANCEL}")
    name = name.removesuffix(_CANCEL)
    by = asked_by(http)
    found = await services.workers.cancel(name, by)
    if not found.count:
        silent = ", ".join(found.silent)
        later = f" ({silent} did not answer, and may end it later)" if silent else ""
        raise NotFoundError(f"no request with the id `{name}` is running{later}")
    return Response(200, msgspec.json.encode(CancelledRequest(name)), [JSON])


def asked_by(http: HttpRequest) -> str:
    """Return who asked for something, for the log: the key's name, if there is one, and address."""
    key = http.admission.key.name
    return f"{key} ({http.client})" if key else http.client
