"""``GET /version``: which V-Gate serves, and on which engine."""

from __future__ import annotations

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services


async def version(services: Services, _request: HttpRequest) -> Response:
    """Answer with V-Gate's version and the name of its engine backend."""
    body = {"version": __version__, "backend": services.backend}
    return Response(200, msgspec.json.encode(body), [JSON])
