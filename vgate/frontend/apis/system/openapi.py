"""``GET /openapi.json``: the endpoints and their requests as an OpenAPI 3.1 document.

A field that isn't served has its policy as ``x-vgate-policy``; see `vgate.frontend.apis.fields`.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Protocol

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services


class _Route(Protocol):
    """A `vgate.frontend.routes.Route`. A path that ends in "/" has a name after it."""

    @property
    def path(self) -> str: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def handler(self) -> Callable[..., Any]: ...
    @property
    def requests(self) -> tuple[type[msgspec.Struct], ...]: ...


def openapi(
    routes: Callable[[], Sequence[_Route]],
) -> Callable[[Services, HttpRequest], Awaitable[Response]]:
    """Return the handler that describes the routes, its own included."""
    body = cache(lambda: msgspec.json.encode(document_of(routes())))

    async def openapi_document(_services: Services, _http: HttpRequest) -> Response:
        """Describe the endpoints."""
        return Response(200, body(), [JSON])

    return openapi_document


def document_of(routes: Sequence[_Route]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    structs = list(dict.fromkeys(struct for route in routes for struct in route.requests))
    template = "#/components/schemas/{name}"
    references, schemas = msgspec.json.schema_components(structs, ref_template=template)
    reference_of = dict(zip(structs, references, strict=True))
    key = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "V-Gate", "version": __version__},
        "paths": dict(_path(route, reference_of) for route in routes),
        "components": {"schemas": schemas, "securitySchemes": {"key": key}},
        # The operator decides if a key is needed.
        "security": [{}, {"key": []}],
    }


def _path(
    route: _Route, reference_of: dict[type[msgspec.Struct], dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """Return a path and its operations."""
    operation: dict[str, Any] = {
        "summary": (inspect.getdoc(route.handler) or "").partition("\n")[0],
        "responses": {"200": {"description": "The answer"}, "default": {"description": "An error"}},
    }
    if route.requests:
        references = [reference_of[struct] for struct in route.requests]
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": True, "content": content}
    operations: dict[str, Any] = {
        method.lower(): {"operationId": f"{route.handler.__name__}_{method.lower()}", **operation}
        for method in route.methods
    }
    for method in operations.keys() & {"get", "head"}:
        operations[method].pop("requestBody", None)
    if not route.path[1:].endswith("/"):
        return route.path, operations
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return route.path + "{name}", {"parameters": [name], **operations}
