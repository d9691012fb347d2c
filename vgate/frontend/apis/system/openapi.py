"""``GET /openapi.json``: the endpoints and their requests as an OpenAPI 3.1 document.

A field that isn't served has its policy as ``x-vgate-policy``, see `vgate.frontend.apis.fields`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any, Protocol

import msgspec

from vgate import __version__
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

_SCHEMAS = "#/components/schemas/{name}"


class DescribedRoute(Protocol):
    """What the document says of a route. A path that ends in "/" has a name behind it."""

    @property
    def path(self) -> str:
        """Its path."""

    @property
    def methods(self) -> list[str]:
        """Its methods."""

    @property
    def handler(self) -> Callable[..., Any]:
        """The function whose docstring describes it."""

    @property
    def requests(self) -> tuple[type[msgspec.Struct], ...]:
        """The structs that its body may be; none if it has no body."""


def openapi(
    routes: Callable[[], Iterable[DescribedRoute]],
) -> Callable[[Services, HttpRequest], Awaitable[Response]]:
    """Return the handler that describes routes, of which it is one itself."""

    @cache
    def response() -> Response:
        return Response(200, msgspec.json.encode(document_of(routes())), [JSON])

    async def openapi_document(_services: Services, _http: HttpRequest) -> Response:
        """Describe the endpoints."""
        return response()

    return openapi_document


def document_of(routes: Iterable[DescribedRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of some routes."""
    described = list(routes)
    structs = list(dict.fromkeys(struct for route in described for struct in route.requests))
    references, schemas = msgspec.json.schema_components(structs, ref_template=_SCHEMAS)
    reference_of = dict(zip(structs, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "V-Gate", "version": __version__},
        "paths": dict(_path(route, reference_of) for route in described),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Whether a key is needed is up to the operator.
        "security": [{}, {"key": []}],
    }


def _path(
    route: DescribedRoute, reference_of: dict[type[msgspec.Struct], dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """Return a path and what can be done with it."""
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
    if not route.path.endswith("/"):
        return route.path, operations
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return route.path + "{name}", {"parameters": [name], **operations}
