"""An end to waiting for clients that don't go on."""

from __future__ import annotations

import asyncio

# How late a deadline may be noticed.
_SWEEP_S = 0.5


class Deadlines:
    """Cancels tasks that wait for longer than they may.

    Looking at all of them now and then costs a request nothing to speak of; a timer for each, as
    ``asyncio.timeout`` has, would cost as much as reading a usual body does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until: dict[asyncio.Task[object], float] = {}
        self._passed: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[object], timeout_s: float) -> None:
        """Have a task cancelled in `timeout_s`, unless `end` comes first."""
        self._until[task] = self._loop.time() + timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def end(self, task: asyncio.Task[object]) -> bool:
        """Let a task go; True if it was cancelled, which is taken back.

        The task waits in between `begin` and `end` and does nothing else, so that is where it is
        cancelled, and nowhere after `end`.
        """
        self._until.pop(task, None)
        if task not in self._passed:
            return False
        self._passed.remove(task)
        task.uncancel()
        return True

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep) if self._until else None
        now = self._loop.time()
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            self._passed.add(task)
            task.cancel()
