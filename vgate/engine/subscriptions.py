"""Who waits for which request: frontends' numbers, and identical requests that share a sequence."""

from __future__ import annotations

from vgate.engine.request import Request

# A frontend's socket identity and its number for the request.
Subscriber = tuple[bytes, int]


class Subscriptions:
    """All requests in the engine by those who wait for them. Pure.

    A request with a digest may have several subscribers: identical requests in flight share one
    sequence. It lives as long as one of them is left.
    """

    def __init__(self) -> None:
        self._requests: dict[Subscriber, Request] = {}
        self._shared: dict[bytes, Request] = {}

    def has(self, subscriber: Subscriber) -> bool:
        """Say whether `subscriber` waits for a request."""
        return subscriber in self._requests

    def shared(self, digest: bytes) -> Request | None:
        """Return the request in flight with this digest; never one for the empty digest."""
        return self._shared.get(digest) if digest else None

    def add(self, request: Request, subscriber: Subscriber) -> None:
        """Have `subscriber` wait for `request`."""
        request.subscribers.append(subscriber)
        self._requests[subscriber] = request
        if request.dedup_key:
            self._shared[request.dedup_key] = request

    def leave(self, subscriber: Subscriber) -> Request | None:
        """Take a subscriber away; return its request if nobody is left who waits for it."""
        request = self._requests.pop(subscriber, None)
        if request is None:
            return None
        request.subscribers.remove(subscriber)
        if request.subscribers:
            return None
        self._forget_digest(request)
        return request

    def end(self, request: Request) -> list[Subscriber]:
        """Take a request away that ended; return who waited for it."""
        subscribers, request.subscribers = request.subscribers, []
        for subscriber in subscribers:
            del self._requests[subscriber]
        self._forget_digest(request)
        return subscribers

    def of_peer(self, peer: bytes) -> list[Subscriber]:
        """Return what a frontend waits for."""
        return [subscriber for subscriber in self._requests if subscriber[0] == peer]

    def _forget_digest(self, request: Request) -> None:
        if self._shared.get(request.dedup_key) is request:
            del self._shared[request.dedup_key]
