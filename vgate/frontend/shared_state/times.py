"""The server's time as far as we know it, and waiting for an answer no longer than allowed."""

import asyncio
import time
from typing import TypeVar

from vgate.frontend.shared_state.calls import TICKS

# Ticks by which the server's time may seem to go back because we read an answer late.
_HELD_UP = 10 * TICKS

_T = TypeVar("_T")


class ServerClock:
    """The server's time, known from its answers: it is later by as long as they were under way."""

    def __init__(self) -> None:
        # The server's time minus ours, in ticks.
        self._offset: int | None = None

    def note(self, ticks: int) -> None:
        """Take note of the time in an answer; what was read late says less than what was not."""
        offset = ticks - int(time.monotonic() * TICKS)
        if self._offset is None or not self._offset - _HELD_UP <= offset <= self._offset:
            self._offset = offset

    def in_future(self, seconds: float) -> int | None:
        """Return the server's time in so many seconds, or a little less; None if it isn't known."""
        if self._offset is None:
            return None
        return int((time.monotonic() + seconds) * TICKS) + self._offset


async def in_time(work: asyncio.Future[_T], seconds: float) -> _T:
    """Return what work gives within so many seconds, or raise `TimeoutError`.

    A loop that was held up sees that the time is over before it reads the answer that came
    meanwhile, so the last part of the time begins after that.
    """
    try:
        for part in (0.75, 0.25):
            await asyncio.wait([work], timeout=part * seconds)
            if work.done():
                return work.result()
    finally:
        work.cancel()
    raise TimeoutError
