"""Records when vLLM's worker computes.

Each line of the file named by `ENGINE_STEPS_FILE` is the start and end of one call that gives the
device work, in seconds of the system's monotonic clock. On a GPU both are CUDA events: the device's
own times, for which nothing waits. On a CPU, where the call computes, they are the call's times.
All servers that use vLLM's worker are recorded alike.
"""

import functools
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_MODULE = "vllm.v1.worker.gpu_worker"  # the CPU's worker is a subclass of the one in it
_METHODS = ("execute_model", "sample_tokens")


class _CpuTimes:
    """Start and end of a call on the CPU."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def start(self) -> float:
        return time.monotonic()

    def end(self, start: float) -> None:
        self._out.write(f"{start:.6f} {time.monotonic():.6f}\n")


class _CudaTimes:
    """Start and end of a call's work on the device, written once both events have occurred."""

    def __init__(self, out: TextIO, torch: Any) -> None:
        self._out = out
        self._torch = torch
        self._pending: deque[tuple[Any, Any]] = deque()
        torch.cuda.synchronize()
        self._base = self._event()
        self._base.synchronize()
        self._base_s = time.monotonic()

    def _event(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> Any:
        return self._event()

    def end(self, start: Any) -> None:
        self._pending.append((start, self._event()))
        while self._pending and self._pending[0][1].query():
            first, last = self._pending.popleft()
            times = (self._base_s + self._base.elapsed_time(one) / 1000 for one in (first, last))
            self._out.write(" ".join(f"{one:.6f}" for one in times) + "\n")


@functools.cache
def _times() -> _CpuTimes | _CudaTimes:
    """Choose the clock, at the first call: the device is not set up before."""
    import torch

    # One file per process, written by lines: several engines may write at the same time.
    path = Path(f"{os.environ['ENGINE_STEPS_FILE']}.{os.getpid()}")
    out = path.open("a", buffering=1)
    return _CudaTimes(out, torch) if torch.cuda.is_available() else _CpuTimes(out)


def _timed(method: Any) -> Any:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        start = _times().start()
        try:
            return method(self, *arguments, **named)
        finally:
            _times().end(start)

    return call


def changes(_file: str) -> dict[str, Callable[[Any], None]]:
    """Return the change that puts the clock around the worker's methods."""

    def put_clock(module: Any) -> None:
        for method in _METHODS:
            if hasattr(module.Worker, method):
                setattr(module.Worker, method, _timed(getattr(module.Worker, method)))

    return {_MODULE: put_clock}
