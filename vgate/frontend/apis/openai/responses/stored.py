"""Stored responses: how a request continues one, and how its own is stored."""

from collections.abc import Callable
from typing import Any

import msgspec

from vgate.errors import NotFoundError
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.responses.input import kind_of
from vgate.frontend.apis.openai.responses.request import ResponsesRequest
from vgate.frontend.apis.openai.responses.response import ResponseObject
from vgate.frontend.cache import ResponseStore, StoredResponse
from vgate.frontend.http import JSON, HttpRequest, Response

_decode_items = msgspec.json.Decoder(list[dict[str, Any]]).decode
_encode = msgspec.json.Encoder().encode


async def resolved(
    request: ResponsesRequest, store: ResponseStore | None, key: str
) -> ResponsesRequest:
    """Return a request with the whole conversation as its input.

    Raises:
        InvalidValueError: An earlier response or an item isn't stored, or not for this key.
    """
    given = request.input
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    earlier: list[dict[str, Any]] = []
    if request.previous_response_id is not None:
        stored = await store.get(key, request.previous_response_id) if store else None
        if stored is None:
            raise invalid("previous_response_id", "is not the id of a stored response")
        earlier = _decode_items(stored.conversation)
    for index, item in enumerate(items):
        if kind_of(item) == "item_reference":
            items[index] = await _referenced(item, store, key, f"input[{index}]")
    return msgspec.structs.replace(request, input=[*earlier, *items])


async def _referenced(
    item: dict[str, Any], store: ResponseStore | None, key: str, path: str
) -> dict[str, Any]:
    name = item.get("id")
    stored = await store.get_item(key, name) if store and isinstance(name, str) else None
    for found in _decode_items(stored.conversation) if stored else ():
        if found.get("id") == name:
            return found
    raise invalid(f"{path}.id", "is not the id of an item of a stored response")


def keeper(
    request: ResponsesRequest, store: ResponseStore | None, key: str
) -> Callable[[ResponseObject], None] | None:
    """Return what stores the response to a resolved request; None if it isn't to be stored."""
    if store is None or request.store is False:
        return None

    def keep(response: ResponseObject) -> None:
        output = msgspec.to_builtins(response.output)
        assert isinstance(request.input, list)
        stored = StoredResponse(_encode([*request.input, *output]), _encode(response))
        store.put(key, response.id, [item["id"] for item in output], stored)

    return keep


async def answer_stored(store: ResponseStore | None, http: HttpRequest, name: str) -> Response:
    """Answer with a stored response, or delete it.

    Raises:
        NotFoundError: The key has no such response.
    """
    key: str = http.admission.key.name
    if store is not None and http.method == "DELETE" and await store.delete(key, name):
        body = {"id": name, "object": "response", "deleted": True}
        return Response(200, _encode(body), [JSON])
    if store is not None and http.method in {"GET", "HEAD"}:
        stored = await store.get(key, name)
        if stored is not None:
            return Response(200, stored.body, [JSON])
    raise NotFoundError(f"there is no response {name[:80]!r}", param="response_id")
