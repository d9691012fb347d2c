"""``GET /v1/models`` and ``GET /v1/models/{id}`` as Anthropic's clients expect them."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from vgate.errors import InvalidValueError
from vgate.frontend.apis.anthropic.errors import REQUEST_ID_HEADER
from vgate.frontend.apis.model_names import known_name, known_names
from vgate.frontend.apis.shared import parameter_pairs
from vgate.frontend.engines.port import ServedName
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

# The page of Anthropic's API (reference, "List Models").
_LIMIT, _MAX_LIMIT = "20", 1000
_LIFECYCLES = {"lifecycle", "lifecycle[]"}


class ModelInfo(msgspec.Struct, frozen=True):
    """A name that requests may use; see `ServedName`.

    Attributes:
        created_at: RFC 3339; the epoch where the time isn't known, as in Anthropic's API.
        max_tokens: Unknown, because it is what the prompt leaves of `max_input_tokens`.
    """

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    max_tokens: None = None
    lifecycle: Literal["active"] = "active"
    type: Literal["model"] = "model"


def is_asked(http: HttpRequest) -> bool:
    """Whether a client of Anthropic's API asks: each of its requests has this header."""
    return http.header("anthropic-version") is not None


async def list_models(services: Services, http: HttpRequest) -> Response:
    """List the served names, in pages."""
    http.set_header(REQUEST_ID_HEADER, http.id)
    return _answer(_page([_info(name) for name in known_names(services, http)], http))


async def retrieve_model(services: Services, http: HttpRequest) -> Response:
    """Describe one served name."""
    http.set_header(REQUEST_ID_HEADER, http.id)
    return _answer(_info(known_name(services, http)))


def _answer(body: Any) -> Response:
    return Response(200, msgspec.json.encode(body), [JSON])


def _info(name: ServedName) -> ModelInfo:
    created = datetime.fromtimestamp(name.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ModelInfo(name.name, name.name, created, name.max_model_len)


def _page(models: list[ModelInfo], http: HttpRequest) -> dict[str, Any]:
    """Return the page that the query asks for; `has_more` tells of its direction.

    Raises:
        InvalidRequestError: A parameter is wrong, or they are too long.
    """
    pairs = parameter_pairs(http, keep_blank_values=True)
    wanted = {value for name, value in pairs if name in _LIFECYCLES}
    if wanted and "active" not in wanted:
        models = []
    query = {name: value for name, value in pairs if name not in _LIFECYCLES}
    limit = _limit(query.pop("limit", _LIMIT))
    after, before = query.pop("after_id", ""), query.pop("before_id", "")
    for name in query:
        http.ignored.add_unknown(name)
    if after and before:
        raise _invalid("before_id", "can't be combined with `after_id`")
    if before:
        models = models[: _index(models, "before_id", before)]
        page = models[-limit:]
    else:
        models = models[_index(models, "after_id", after) + 1 :] if after else models
        page = models[:limit]
    return {
        "data": page,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(models) > len(page),
    }


def _limit(given: str) -> int:
    # More digits than these may be more than Python reads.
    if given.isdecimal() and len(given) <= len(str(_MAX_LIMIT)) and 1 <= int(given) <= _MAX_LIMIT:
        return int(given)
    raise _invalid("limit", f"must be an integer from 1 to {_MAX_LIMIT}")


def _index(models: list[ModelInfo], parameter: str, asked: str) -> int:
    for index, model in enumerate(models):
        if model.id == asked:
            return index
    raise _invalid(parameter, "is not the id of one of the models")


def _invalid(parameter: str, problem: str) -> InvalidValueError:
    return InvalidValueError(f"`{parameter}` {problem}", param=parameter)
