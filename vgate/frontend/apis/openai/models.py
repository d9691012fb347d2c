"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Literal

import msgspec

from vgate.errors import ModelNotFoundError
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.services import Services

PREFIX = "/v1/models/"


class ModelCard(msgspec.Struct, frozen=True):
    """A name that requests may use; see `ServedName`."""

    id: str
    created: int
    root: str
    parent: str | None
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: Literal["vgate"] = "vgate"


class ModelList(msgspec.Struct, frozen=True):
    """All served models."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


async def list_models(services: Services, _request: HttpRequest) -> Response:
    """List the served names."""
    return Response(200, msgspec.json.encode(ModelList(_cards(services))), [JSON])


async def retrieve_model(services: Services, request: HttpRequest) -> Response:
    """Describe one served name; names may contain slashes.

    Raises:
        ModelNotFoundError: No model of that name is served.
    """
    name = request.path.removeprefix(PREFIX)
    for card in _cards(services):
        if card.id == name:
            return Response(200, msgspec.json.encode(card), [JSON])
    names = ", ".join(card.id for card in _cards(services))
    message = f"the model `{name}` does not exist; served: {names}"
    raise ModelNotFoundError(message, param="model")


def _cards(services: Services) -> list[ModelCard]:
    return [
        ModelCard(name.name, name.created, name.root, name.parent, name.max_model_len)
        for name in services.models.names()
    ]
