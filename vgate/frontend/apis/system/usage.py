"""``GET /v1/usage``: what API keys have used, from the ledger."""

from datetime import date

import msgspec

from vgate.errors import InvalidValueError
from vgate.frontend.apis.shared import parameters
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.services import Services

_BY = ("key", "model", "day")
_PARAMETERS = ("by", "since", "until", "key")


async def usage(services: Services, http: HttpRequest) -> Response:
    """Answer with what the request's key has used, or with an admin's what all keys have."""
    given = parameters(http, keep_blank_values=True)
    for name in given:
        if name not in _PARAMETERS:
            raise _invalid(name, f"is not a parameter; there are: {', '.join(_PARAMETERS)}")
    by = [each.strip() for each in given.get("by", ",".join(_BY)).split(",")]
    for each in by:
        if each not in _BY:
            raise _invalid("by", f"must name some of {', '.join(_BY)}, with commas between them")
    key: str | None = http.admission.key.name
    if services.sees_all(http):
        key = given.get("key")
    since, until = _day(given, "since", date.min), _day(given, "until", date.max)
    data = await services.ledger.read(by, since, until, key)
    return Response(200, msgspec.json.encode({"object": "list", "data": data}), [JSON])


def _day(given: dict[str, str], name: str, default: date) -> date:
    try:
        return date.fromisoformat(given[name]) if name in given else default
    except ValueError:
        raise _invalid(name, "must be a day such as 2027-01-31 (UTC)") from None


def _invalid(name: str, problem: str) -> InvalidValueError:
    return InvalidValueError(f"`{name}` {problem}", param=name)
