"""What a worker's requests share: memory, deadlines, disconnects, and answers on their way.

Deadlines and disconnects are watched for many requests at once, because a timer or a watcher for
each costs as much as reading or decoding a usual body.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Protocol

from vgate.errors import RequestTimeoutError, ShuttingDownError, VGateError, WorkerMemoryError

# How late a passed deadline may be noticed.
_SWEEP_S = 0.5
# How late a disconnect may be noticed; an engine needs up to 100 ms to stop in any case.
_WATCH_DELAY_S = 0.02
# What a request takes for each byte of its body: 4 were measured for 8 MB of words, more for many
# small values. What the threads of `LongWork` need while they tokenise is not in it.
BYTES_PER_BODY_BYTE = 8
_RETRY_AFTER_S = 1.0


class ClientDisconnected(Exception):  # noqa: N818 - it is an event, nobody's error
    """The client left; nobody reads the response."""


class Memory:
    """Counts bytes, estimated, and refuses requests beyond a limit; one alone is always let in."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count bytes, which must be released.

        Raises:
            WorkerMemoryError: There are too many.
        """
        if self.held_bytes and self.held_bytes + size_bytes > self._max_bytes:
            message = (
                "the server holds too many large requests at once (server.max_memory_bytes); "
                "try again soon"
            )
            raise WorkerMemoryError(message, retry_after_s=_RETRY_AFTER_S)
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Count bytes no more."""
        self.held_bytes -= size_bytes


class Deadlines:
    """Cancels tasks that wait for longer than they may."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until: dict[asyncio.Task[object], float] = {}
        self._passed: set[asyncio.Task[object]] = set()
        self._most_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[object], timeout_s: float) -> None:
        """Cancel a task in `timeout_s`, unless `end` comes first."""
        self._until[task] = self._loop.time() + min(timeout_s, self._most_s)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def end(self, task: asyncio.Task[object]) -> bool:
        """Remove a task's deadline; if it had passed, undo the cancellation and return True.

        Between `begin` and `end` the task must do nothing but wait: it is cancelled there or never.
        """
        self._until.pop(task, None)
        if task not in self._passed:
            return False
        self._passed.remove(task)
        task.uncancel()
        return True

    def shorten(self, most_s: float) -> None:
        """Let nobody wait for longer, from now on: the worker ends."""
        self._most_s, latest = most_s, self._loop.time() + most_s
        for task, until in self._until.items():
            self._until[task] = min(until, latest)

    def late_body(self, timeout_s: float) -> VGateError:
        """Return the error of a body that has not come within `timeout_s`, or less in a drain."""
        if self._most_s < timeout_s:
            return ShuttingDownError()
        return RequestTimeoutError(f"the request body did not arrive within {timeout_s} s")

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep) if self._until else None
        now = self._loop.time()
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            self._passed.add(task)
            task.cancel()


class DisconnectWatch:
    """Starts watching clients after a short delay, many at once.

    Most of the cost is waking granian's thread, and requests that are answered before pay nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: set[Callable[[], None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watch: Callable[[], None]) -> None:
        """Call `watch` soon. granian also reports a client that left before."""
        self._waiting.add(watch)
        if self._timer is None:
            self._timer = self._loop.call_later(_WATCH_DELAY_S, self._watch)

    def discard(self, watch: Callable[[], None]) -> None:
        """Don't call it, as its request has ended."""
        self._waiting.discard(watch)

    def _watch(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, set()
        for watch in waiting:
            watch()


Write = Callable[[bytes], None]
# Has each further write of a stream pass through what it is given.
Divert = Callable[[Callable[[Write], Write]], None]


class Sending(Protocol):
    """An answer on its way to a client."""

    def finish(self) -> None:
        """Note that the last byte was written."""


# `Unsent.begin`: cuts clients that don't take their answers.
BeginSending = Callable[[str, str, float, Divert | None, int], Sending]
ClientOf = Callable[[str, Callable[[str], list[str]]], str]


class OpenStream:
    """A response whose body is still being written."""

    __slots__ = ("write",)

    def __init__(self, transport: Any) -> None:
        # Sends without waiting; does nothing after the client left.
        self.write: Callable[[bytes], None] = transport.send_bytes

    def close(self) -> None:
        """End the body: granian does that when the transport is freed, so release it now."""
        self.write = _discard


def _discard(_data: bytes) -> None:
    """Write to a stream that has ended."""


class Waits:
    """Everything that the requests of one worker share.

    Attributes:
        client_of: Returns a client's address; see `ClientAddresses.of`.
        leaving: The worker ends with its requests, so each connection is closed after an answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        max_memory_bytes: int,
        begin_sending: BeginSending,
        client_of: ClientOf,
    ) -> None:
        self.leaving = False
        self.client_of = client_of
        self.memory = Memory(max_memory_bytes)
        self.begin_sending = begin_sending
        self.deadlines = Deadlines(loop)
        self.disconnects = DisconnectWatch(loop)
