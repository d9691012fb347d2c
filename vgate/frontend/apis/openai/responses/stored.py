"""Stored responses: how a request continues one, how its own is stored, and how one is read."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from vgate.errors import NotFoundError, PayloadTooLargeError
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.responses.input import kind_of
from vgate.frontend.apis.openai.responses.request import ResponsesRequest
from vgate.frontend.apis.openai.responses.response import ResponseObject
from vgate.frontend.apis.shared import parameters
from vgate.frontend.cache import ResponseStore, StoredResponse
from vgate.frontend.http import (
    FEW_ITEMS,
    JSON,
    SMALL_BYTES,
    HttpRequest,
    LongWork,
    Response,
    counted,
    decode_json,
    has_too_many,
)
from vgate.frontend.ids import new_id

_encode = msgspec.json.Encoder().encode

_MAX_DIGITS = 20
_MAX_PAGE = 100
_ID_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
}


class _Output(msgspec.Struct):
    """What of a stored response tells how many items its answer has."""

    output: list[msgspec.Raw]


_decode_output = msgspec.json.Decoder(_Output).decode


class Earlier(msgspec.Struct, frozen=True):
    """The stored conversation that a request continues.

    Attributes:
        items: How many items it has; 0 if the request continues none.
        conversation: Its items, as JSON.
    """

    items: int = 0
    conversation: bytes = b"[]"


class _Reader:
    """Reads what earlier requests left, for one whose body has been read.

    A request of a hundred bytes may so need as much as the longest body, and each turn of a
    conversation adds to it. So it counts as the request's body does.
    """

    def __init__(self, work: LongWork, http: HttpRequest) -> None:
        self._work = work
        self._http = http
        self._bytes = len(http.read_body)
        self._items = self._values = 0

    async def items(self, stored: StoredResponse) -> list[dict[str, Any]]:
        """Return the items of a stored conversation.

        Raises:
            PayloadTooLargeError: The request has more than a body may have, or all documents have.
            OverloadedError: This worker has no memory for it now.
        """
        document = stored.conversation
        http, limits = self._http, self._work.limits
        self._bytes += len(document)
        if self._bytes > limits.max_bytes:
            most = f"{limits.max_bytes} bytes (server.max_body_bytes)"
            raise PayloadTooLargeError(f"a request and what it continues must be at most {most}")
        http.hold(len(document))
        http.is_short = http.is_short and len(document) <= SMALL_BYTES

        def read() -> list[dict[str, Any]]:
            *_, (items, values) = counted(document)
            self._items += items
            self._values += values
            if has_too_many(self._items, self._values, limits.max_items):
                most = f"{limits.max_items} objects, lists, texts and keys (server.max_items)"
                raise PayloadTooLargeError(f"what a request continues must have at most {most}")
            return _decode_items(document)

        return await self._work.done(http, read)


async def continued(
    work: LongWork, http: HttpRequest, request: ResponsesRequest, store: ResponseStore | None
) -> tuple[ResponsesRequest, Earlier]:
    """Return a request with the whole conversation as its input, and what of it was stored.

    Raises:
        InvalidValueError: An earlier response or an item isn't stored, or not for this key.
        PayloadTooLargeError: All of it is more than a body may be.
    """
    key: str = http.admission.key.name
    given = request.input
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    before: list[dict[str, Any]] = []
    earlier, kept = Earlier(), _Reader(work, http)
    if request.previous_response_id is not None:
        stored = await store.get(key, request.previous_response_id) if store else None
        if stored is None:
            raise invalid("previous_response_id", "is not the id of a stored response")
        before = await kept.items(stored)
        earlier = Earlier(len(before), stored.conversation)
    http.is_short = http.is_short and len(before) + len(items) <= FEW_ITEMS
    known = _by_id(before)
    index = len(items)
    while (index := await work.done(http, partial(_resolve, items, known, index))) >= 0:
        name = items[index].get("id")
        stored = await store.get_item(key, name) if store and isinstance(name, str) else None
        if stored is not None:
            known |= _by_id(await kept.items(stored))
        if not isinstance(name, str) or name not in known:
            raise invalid(f"input[{index}].id", "is not the id of an item of a stored response")
        index += 1
    return msgspec.structs.replace(request, input=[*before, *items]), earlier


def _decode_items(conversation: bytes) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = decode_json(conversation)
    return items


def _resolve(items: list[dict[str, Any]], known: dict[str, dict[str, Any]], end: int) -> int:
    """Put known items in the places of references to them; return the last of an unknown one.

    From the end, as a later response has the items of those before it: one is mostly enough. What
    follows `end` is left as it is. Returns -1 if all are known.
    """
    for index in reversed(range(end)):
        if kind_of(items[index]) == "item_reference":
            name = items[index].get("id")
            if not isinstance(name, str) or name not in known:
                return index
            items[index] = known[name]
    return -1


def _by_id(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in items}


def keeper(
    request: ResponsesRequest,
    earlier: Earlier,
    store: ResponseStore | None,
    key: str,
    body_bytes: int,
) -> Callable[[ResponseObject], bool] | None:
    """Return what stores the response to a continued request; None if it isn't to be stored.

    It returns whether the response will be stored.
    """
    if store is None or request.store is False:
        return None
    assert isinstance(request.input, list)
    sent = request.input[earlier.items :]
    size_bytes = len(earlier.conversation) + body_bytes

    def keep(response: ResponseObject) -> bool:
        def encode() -> StoredResponse:
            new_ids = [item.id for item in response.output]
            parts = [earlier.conversation[1:-1]] if earlier.items else []
            # One by one: a long conversation at once would keep the event loop from running.
            for item in sent:
                if not isinstance(item.get("id"), str):
                    kind = kind_of(item)
                    new_ids.append(new_id(_ID_PREFIXES.get(kind, "item_")))
                    item = {**item, "id": new_ids[-1]}  # noqa: PLW2901
                parts.append(_encode(item))
            parts += [_encode(item) for item in response.output]
            return StoredResponse(b"[%b]" % b",".join(parts), _encode(response), new_ids)

        return store.put(key, response.id, size_bytes, encode)

    return keep


async def answer_stored(
    work: LongWork, http: HttpRequest, store: ResponseStore | None, path: str
) -> Response:
    """Answer with a stored response or its input items, or delete it; the path is behind `PREFIX`.

    Raises:
        NotFoundError: The key has no such response.
        InvalidValueError: A parameter of the query is wrong.
    """
    key: str = http.admission.key.name
    name, _, part = path.partition("/")
    reads = http.method in {"GET", "HEAD"}
    if store is not None and http.method == "DELETE" and not part:
        if await store.delete(key, name):
            body = {"id": name, "object": "response", "deleted": True}
            return Response(200, _encode(body), [JSON])
    elif store is not None and reads and part in {"", "input_items"}:
        stored = await store.get(key, name)
        if stored is not None:
            if not part:
                return Response(200, stored.body, [JSON])
            http.hold(len(stored.conversation))
            http.is_short = len(stored.conversation) <= SMALL_BYTES
            page = await work.done(http, partial(_input_items, stored, http))
            return Response(200, page, [JSON])
    if (part and not (reads and part == "input_items")) or http.method == "POST":
        more = "; no response runs in the background" if part == "cancel" else ""
        raise NotFoundError(f"there is no {http.method} {http.path[:120]}{more}")
    raise NotFoundError(f"there is no response {name[:80]!r}", param="response_id")


def _input_items(stored: StoredResponse, http: HttpRequest) -> bytes:
    """Return a page of the items that led to a response, those of earlier responses included."""
    query = parameters(http)
    limit, order = query.pop("limit", "20"), query.pop("order", "desc")
    after = query.pop("after", "")
    for name in query.keys() - {"include"}:
        http.ignored.add_unknown(name)
    # More digits than these may be more than Python reads.
    if not (limit.isdecimal() and len(limit) <= _MAX_DIGITS and 1 <= int(limit) <= _MAX_PAGE):
        raise invalid("limit", f"must be an integer from 1 to {_MAX_PAGE}")
    if order not in {"asc", "desc"}:
        raise invalid("order", "must be 'asc' or 'desc'")
    items = _decode_items(stored.conversation)
    items = items[: len(items) - len(_decode_output(stored.body).output)]
    if order == "desc":
        items.reverse()
    if after:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise invalid("after", "is not the id of one of the items")
        items = items[ids.index(after) + 1 :]
    page = [_shown(item) for item in items[: int(limit)]]
    return _encode(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }
    )


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item with what clients expect in it and may leave out."""
    shown = {"type": kind_of(item), "status": "completed", **item}
    content = item.get("content")
    if isinstance(content, str):
        text: dict[str, Any] = {"type": "input_text", "text": content}
        if item.get("role") == "assistant":
            text = {"type": "output_text", "text": content, "annotations": []}
        shown["content"] = [text]
    return shown
