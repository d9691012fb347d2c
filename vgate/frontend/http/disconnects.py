"""Noticing clients that leave, and the event that ends their requests."""

from __future__ import annotations

import asyncio
from typing import Protocol

# How late a client's leaving may be noticed; an engine stops within 100 ms of it all the same.
_DELAY_S = 0.02


class ClientDisconnected(Exception):  # noqa: N818 - it is an event, nobody's error
    """The client is gone; nobody waits for the answer."""


class Watched(Protocol):
    """A request whose client may leave."""

    def watch(self) -> None:
        """Begin to watch."""


class DisconnectWatch:
    """Begins to watch clients, all of a moment together.

    Watching costs as much as decoding a request does, most of it for waking granian's thread. That
    is paid once for many, and never for those who are answered at once. granian tells of a client
    that left before it was asked as well.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Watched) -> None:
        """Watch a request's client, soon."""
        self._waiting.add(request)
        if self._timer is None:
            self._timer = self._loop.call_later(_DELAY_S, self._begin)

    def discard(self, request: Watched) -> None:
        """Let a request go that has ended."""
        self._waiting.discard(request)

    def _begin(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, set()
        for request in waiting:
            request.watch()
