"""Reads what earlier requests left for a later one, such as a stored conversation.

A request of a hundred bytes may so need as much as the longest body, and each turn of a
conversation adds to it. So it counts as the request's body does.
"""

from collections.abc import Callable
from typing import TypeVar

from vgate.errors import PayloadTooLargeError
from vgate.frontend.http.body_items import counted, has_too_many
from vgate.frontend.http.long_work import LongWork
from vgate.frontend.http.request import SMALL_BYTES, HttpRequest

_Result = TypeVar("_Result")


class KeptReader:
    """Reads documents for one request, whose body has been read."""

    def __init__(self, work: LongWork, http: HttpRequest) -> None:
        self._work = work
        self._http = http
        self._bytes = len(http.read_body)
        self._items = self._values = 0

    async def read(self, document: bytes, decode: Callable[[bytes], _Result]) -> _Result:
        """Return `decode(document)`, which may run on a thread.

        Raises:
            PayloadTooLargeError: The request has more than a body may have, or all documents have.
            OverloadedError: This worker has no memory for it now.
        """
        http, limits = self._http, self._work.limits
        self._bytes += len(document)
        if self._bytes > limits.max_bytes:
            most = f"{limits.max_bytes} bytes (server.max_body_bytes)"
            raise PayloadTooLargeError(f"a request and what it continues must be at most {most}")
        http.hold(len(document))
        http.is_short = http.is_short and len(document) <= SMALL_BYTES

        def read() -> _Result:
            *_, (items, values) = counted(document)
            self._items += items
            self._values += values
            if has_too_many(self._items, self._values, limits.max_items):
                most = f"{limits.max_items} objects, lists, texts and keys (server.max_items)"
                raise PayloadTooLargeError(f"what a request continues must have at most {most}")
            return decode(document)

        return await self._work.done(http, read)
