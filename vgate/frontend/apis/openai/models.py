"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Literal

import msgspec

from vgate.errors import ModelNotFoundError
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

PREFIX = "/v1/models/"


class ModelStatus(msgspec.Struct, frozen=True):
    """Whether a model is loaded. The field and its words are those of llama.cpp's router."""

    value: str


class ModelCard(msgspec.Struct, frozen=True):
    """A name that requests may use; see `ServedName`.

    Attributes:
        root: The model's model_id; the name itself where `parent` isn't told.
        parent: Also None if the request's key may not use it.
    """

    id: str
    created: int
    root: str
    parent: str | None
    max_model_len: int | None
    status: ModelStatus
    object: Literal["model"] = "model"
    owned_by: Literal["vgate"] = "vgate"


async def list_models(services: Services, request: HttpRequest) -> Response:
    """List the served names."""
    body = {"data": _cards(services, request), "object": "list"}
    return Response(200, msgspec.json.encode(body), [JSON])


async def retrieve_model(services: Services, request: HttpRequest) -> Response:
    """Describe one served name; names may contain slashes."""
    name = request.path.removeprefix(PREFIX)
    cards = {card.id: card for card in _cards(services, request)}
    if name not in cards:
        message = f"the model `{name}` does not exist; served: {', '.join(cards)}"
        raise ModelNotFoundError(message, param="model")
    return Response(200, msgspec.json.encode(cards[name]), [JSON])


def _cards(services: Services, request: HttpRequest) -> list[ModelCard]:
    """Return the names that the request's key may use."""
    allowed = services.models.allowed(request.admission.key)
    cards = []
    for name in services.models.names():
        if allowed is not None and name.name not in allowed:
            continue
        hidden = allowed is not None and name.parent is not None and name.parent not in allowed
        root, parent = (name.name, None) if hidden else (name.root, name.parent)
        status = ModelStatus(name.status)
        cards.append(ModelCard(name.name, name.created, root, parent, name.max_model_len, status))
    return cards
