"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from typing import Literal

import msgspec

from vgate.frontend.apis.model_names import known_name, known_names
from vgate.frontend.engines.port import ServedName
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services


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
    cards = [_card(name) for name in known_names(services, request)]
    return Response(200, msgspec.json.encode({"data": cards, "object": "list"}), [JSON])


async def retrieve_model(services: Services, request: HttpRequest) -> Response:
    """Describe one served name; names may contain slashes."""
    return Response(200, msgspec.json.encode(_card(known_name(services, request))), [JSON])


def _card(name: ServedName) -> ModelCard:
    status = ModelStatus(name.status)
    return ModelCard(name.name, name.created, name.root, name.parent, name.max_model_len, status)
