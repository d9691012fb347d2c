"""Keeps streams open that have nothing to send, because proxies close quiet connections."""

import asyncio
import time

from vgate.frontend.answers.answer import StreamedAnswer

# How late a quiet stream may be noticed: a tenth of the interval, within these bounds.
_SWEEP_S = 1.0
_MIN_SWEEP_S = 0.005


class KeepAlive:
    """Keeps the streams of one worker open.

    It looks at all of them now and then, and only while there are any: a timer for each, moved with
    every token, would cost more than the token.

    Args:
        loop: The event loop.
        interval_s: How long a stream may send nothing; 0 turns this off.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._sweep_s = min(_SWEEP_S, max(_MIN_SWEEP_S, interval_s / 10))
        self._due: dict[StreamedAnswer, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: StreamedAnswer, since: float) -> None:
        """Keep an answer's stream open, which has sent nothing `since`, in monotonic seconds."""
        if not self._interval_s:
            return
        self._due[answer] = since + self._interval_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._sweep_s, self._sweep)

    def discard(self, answer: StreamedAnswer) -> None:
        """Forget an answer that has ended, before it is closed."""
        self._due.pop(answer, None)

    def _sweep(self) -> None:
        due = self._due
        self._timer = self._loop.call_later(self._sweep_s, self._sweep) if due else None
        now = time.monotonic()
        for answer, due_at in due.items():
            if answer.was_quiet():
                if now < due_at:
                    continue
                answer.keep_alive()
            due[answer] = now + self._interval_s
