"""Requests begin and end a few at a time, so that running streams get their tokens in between."""

import asyncio
from collections import deque

# In one iteration of the event loop: each takes one to three hundred microseconds.
_AT_ONCE = 4


class Turns:
    """Lets tasks pass in the order in which they came, a few in each iteration of the event loop.

    When many streams end together, their clients' next requests come together. Without turns all
    of them are prepared in one iteration, and no stream gets a token until the last one is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = _AT_ONCE

    async def take(self) -> None:
        """Return when it is this task's turn: at once, as long as few came in this iteration."""
        if self._left == _AT_ONCE:
            self._loop.call_soon(self._next)
        if self._left:
            self._left -= 1
            return
        turn = self._loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """Begin an iteration."""
        self._left = _AT_ONCE
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            # A task that was cancelled needs none.
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._left < _AT_ONCE:
            self._loop.call_soon(self._next)
