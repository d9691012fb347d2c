"""When the answers of one engine's sequences read their new tokens: with each step, or a few later.

Writing a chunk costs the frontend and the client many times what the token in it does. With
hundreds of streams of a fast engine they would do little else, and the engine would wait for a
core. So the more streams there are, the longer a stream's tokens are gathered into one chunk: 10 ms
with 256 streams, and never longer than a screen takes to show them. Streams that are few or slow
get each token at once. First tokens, ends and errors never wait.
"""

import asyncio
from collections.abc import Callable, Iterable
from time import perf_counter

from vgate.frontend.engines.sequence import Reader
from vgate.log import Log

# Between two chunks of a stream, for each stream: so their writes take half of a slow core at most.
_EACH_S = 0.00004
_MOST_S = 0.02
_TICK_S = 0.001  # of the loop's timers

log = Log("vgate.frontend")


class Flushing:
    """Lets answers read their new output. Used from the event loop only.

    Attributes:
        waiting: The answers with plain tokens that they have not read. One that has read them
            since then, with a later delta, or is closed, is no longer `touched`.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.waiting: list[Reader] = []
        self._loop = loop
        self._clock = clock
        # When the next chunks are due, when the last batch was read, and half of a step's time.
        self._due = self._came = self._half_step_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def after_batch(self, urgent: Iterable[Reader] = ()) -> None:
        """Flush the urgent, and the others unless the next batch will come nearer to their time.

        Call it after each batch of messages.
        """
        for answer in urgent:
            _flush(answer)
        now = self._clock()
        self._half_step_s, self._came = (now - self._came) / 2, now
        if self.waiting:
            self._flush_if_due(self._due - now, self._half_step_s)

    def flush(self) -> None:
        """Let all answers that wait read their output now."""
        waiting, self.waiting = self.waiting, []
        self._due = self._clock() + min(len(waiting) * _EACH_S, _MOST_S)
        for answer in waiting:
            if answer.touched:
                _flush(answer)

    def _flush_if_due(self, left_s: float, early_s: float) -> None:
        if left_s <= early_s:
            self.flush()
        elif self._timer is None:
            # For the case that no step comes.
            self._timer = self._loop.call_later(left_s + self._half_step_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self.waiting:
            self._flush_if_due(self._due - self._clock(), _TICK_S)


def _flush(answer: Reader) -> None:
    answer.touched = False
    try:
        answer.flush()
    except Exception:
        # The others wait behind it, and those who run in an engine that was just lost.
        log.exception("an answer could not read its tokens")
