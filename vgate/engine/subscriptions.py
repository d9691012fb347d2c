"""Which frontends get the output of which request. Pure."""

from __future__ import annotations

from vgate.engine.request import Request

# A frontend's socket identity, and its number for the request.
Subscriber = tuple[bytes, int]


class Subscriptions:
    """The requests in the engine by subscriber.

    Coalesced requests are one request with several subscribers. It lives as long as it has any.
    """

    def __init__(self) -> None:
        self._requests: dict[Subscriber, Request] = {}
        self._by_dedup_key: dict[bytes, Request] = {}

    def has(self, subscriber: Subscriber) -> bool:
        """Say whether a subscriber has a request."""
        return subscriber in self._requests

    def find(self, dedup_key: bytes) -> Request | None:
        """Return the request in flight with a dedup key; None for the empty one."""
        return self._by_dedup_key.get(dedup_key) if dedup_key else None

    def add(self, request: Request, subscriber: Subscriber) -> None:
        """Add a subscriber to a request."""
        request.subscribers.append(subscriber)
        self._requests[subscriber] = request
        if request.dedup_key:
            self._by_dedup_key[request.dedup_key] = request

    def remove(self, subscriber: Subscriber) -> Request | None:
        """Remove a subscriber; return its request if that has no other one left."""
        request = self._requests.pop(subscriber, None)
        if request is None:
            return None
        request.subscribers.remove(subscriber)
        if request.subscribers:
            return None
        self._forget_key(request)
        return request

    def end(self, request: Request) -> list[Subscriber]:
        """Remove a request that has ended; return its subscribers."""
        subscribers, request.subscribers = request.subscribers, []
        for subscriber in subscribers:
            del self._requests[subscriber]
        self._forget_key(request)
        return subscribers

    def of_peer(self, peer: bytes) -> list[Subscriber]:
        """Return the subscribers of a frontend."""
        return [subscriber for subscriber in self._requests if subscriber[0] == peer]

    def _forget_key(self, request: Request) -> None:
        if self._by_dedup_key.get(request.dedup_key) is request:
            del self._by_dedup_key[request.dedup_key]
