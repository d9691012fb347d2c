"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote

import msgspec

from vgate.errors import ModelNotFoundError
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

PREFIX = "/v1/models/"


class ModelCard(msgspec.Struct, frozen=True):
    """A served model. `root` is the model behind an alias."""

    id: str
    created: int
    root: str
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
    name = unquote(request.path.removeprefix(PREFIX))
    for card in _cards(services):
        if card.id == name:
            return Response(200, msgspec.json.encode(card), [JSON])
    message = f"the model `{name}` does not exist; served: {', '.join(services.served_names)}"
    raise ModelNotFoundError(message, param="model")


def _cards(services: Services) -> list[ModelCard]:
    config, text_model = services.config.model, services.text_model
    created = text_model.info.created if text_model else 0
    max_model_len = text_model.info.max_model_len if text_model else config.max_model_len
    names = services.served_names
    return [ModelCard(name, created, names[0], max_model_len) for name in names]
