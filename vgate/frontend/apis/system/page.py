"""``GET /`` and ``GET /docs``, the pages for people, and ``GET /ui/``, what these are made of."""

from vgate.errors import NotFoundError
from vgate.frontend.apis.system.health import health
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.services import Services

PREFIX = "/ui/"


async def root(services: Services, http: HttpRequest) -> Response:
    """Answer a browser with the page, and programs that there is a server."""
    if services.page is None or "text/html" not in (http.header("accept") or ""):
        return await health(services, http)
    return services.page.answer(http, "index.html")


async def docs(services: Services, http: HttpRequest) -> Response:
    """Answer with a page that shows ``/openapi.json``."""
    return _file(services, http, "docs.html")


async def page_file(services: Services, http: HttpRequest) -> Response:
    """Answer with a file of the pages."""
    return _file(services, http, http.path.removeprefix(PREFIX))


def _file(services: Services, http: HttpRequest, name: str) -> Response:
    if services.page is None:
        raise NotFoundError(f"there is no {http.path}: the page is off (server.ui)")
    return services.page.answer(http, name)
