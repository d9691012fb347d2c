"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Literal

import msgspec

from vgate.errors import ModelNotFoundError
from vgate.frontend.http import JSON, HttpRequest, Response
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


async def list_models(services: Services, _request: HttpRequest) -> Response:
    """List the served names."""
    body = {"data": _cards(services), "object": "list"}
    return Response(200, msgspec.json.encode(body), [JSON])


async def retrieve_model(services: Services, request: HttpRequest) -> Response:
    """Describe one served name; names may contain slashes."""
    name = request.path.removeprefix(PREFIX)
    cards = {card.id: card for card in _cards(services)}
    if name not in cards:
        message = f"the model `{name}` does not exist; served: {', '.join(cards)}"
        raise ModelNotFoundError(message, param="model")
    return Response(200, msgspec.json.encode(cards[name]), [JSON])


def _cards(services: Services) -> list[ModelCard]:
    return [
        ModelCard(name.name, name.created, name.root, name.parent, name.max_model_len)
        for name in services.models.names()
    ]
