"""Records when vLLM's worker computes; put on PYTHONPATH, Python imports it by this name.

Each line of the file that `ENGINE_STEPS_FILE` names is the start and the end of one call that gives
the device work, in seconds of the system's monotonic clock. On a GPU both are CUDA events, so they
are the device's own times and nothing waits for them; on a CPU, where the call computes, they are
the call's. It serves every server alike, because all of them use vLLM's worker.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

_MODULE = "vllm.v1.worker.gpu_worker"  # the CPU's worker is a subclass of the one in it
_METHODS = ("execute_model", "sample_tokens")


class _CpuTimes:
    """Start and end of a call, as the CPU sees it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def start(self) -> float:
        return time.monotonic()

    def end(self, start: float) -> None:
        self._out.write(f"{start:.6f} {time.monotonic():.6f}\n")


class _CudaTimes:
    """Start and end of a call's work on the device. Pairs are written once they have happened."""

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


class _Times:
    """Chooses the clock at the first call: before it the device is not set up."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._times: _CpuTimes | _CudaTimes | None = None

    def start(self) -> Any:
        if self._times is None:
            import torch

            # One file a process, by lines: several engines may write at once.
            out = Path(f"{self._path}.{os.getpid()}").open("a", buffering=1)  # noqa: SIM115
            on_gpu = torch.cuda.is_available()
            self._times = _CudaTimes(out, torch) if on_gpu else _CpuTimes(out)
        return self._times.start()

    def end(self, start: Any) -> None:
        assert self._times is not None
        self._times.end(start)


def _timed(method: Any, times: _Times) -> Any:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        start = times.start()
        try:
            return method(self, *arguments, **named)
        finally:
            times.end(start)

    return call


class _Loader(importlib.abc.Loader):
    """Loads the module as it would be, then puts the clock around its methods."""

    def __init__(self, loader: importlib.abc.Loader, times: _Times) -> None:
        self._loader = loader
        self._times = times

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        for name in _METHODS:
            if method := getattr(module.Worker, name, None):
                setattr(module.Worker, name, _timed(method, self._times))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, times: _Times) -> None:
        self._times = times

    def find_spec(
        self, name: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._times)
        return spec


if "ENGINE_STEPS_FILE" in os.environ:
    sys.meta_path.insert(0, _Finder(_Times(os.environ["ENGINE_STEPS_FILE"])))
