"""Records when a frontend's loop is held.

A timer of the loop, due every millisecond, writes a line whenever it is late: see `Hold`, whose
fields they are. The file is in the directory named by `LOOP_HOLDS_DIR`.
"""

import os
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODULE = "vgate.frontend.app"
_TICK_S = 0.001
_LATE_S = 0.002


def _record(loop: AbstractEventLoop) -> None:
    path = Path(os.environ["LOOP_HOLDS_DIR"], f"{os.getpid()}.holds")
    out = path.open("a", buffering=1)
    statistics = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def clocks() -> tuple[float, float, float, float]:
        queued_ns = int(os.pread(statistics, 100, 0).split()[1])
        return time.monotonic(), time.thread_time(), time.process_time(), queued_ns / 1e9

    last = clocks()

    def tick() -> None:
        nonlocal last
        now = clocks()
        passed_s, *used_s = (after - before for before, after in zip(last, now, strict=True))
        if passed_s - _TICK_S > _LATE_S:
            values = now[0], passed_s - _TICK_S, *used_s
            out.write(" ".join(f"{value:.6f}" for value in values) + "\n")
        last = now
        loop.call_later(_TICK_S, tick)

    loop.call_soon(tick)


def changes(_directory: str) -> dict[str, Callable[[Any], None]]:
    """Return the change that has the application start the timer with itself."""

    def record(module: Any) -> None:
        init = module.App.__rsgi_init__

        def timed_init(self: Any, loop: AbstractEventLoop) -> None:
            init(self, loop)
            _record(loop)

        module.App.__rsgi_init__ = timed_init

    return {_MODULE: record}
