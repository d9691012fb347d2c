"""Faults on purpose: the simulated engine does not load, runs out of memory, crashes or hangs."""

import time
from collections.abc import Callable
from typing import NoReturn

from vgate.config.schema import DryRun

_LONG_S = 3600.0


class Fault:
    """Strikes in every n-th step that has enough in it, or when it is made."""

    def __init__(self, settings: DryRun) -> None:
        self._settings = settings
        self._steps = 0
        if settings.fault == "load":
            _hang()

    def step(self, sequences: int, kv_tokens: Callable[[], int]) -> None:
        """Count a step with so many sequences and KV tokens; strike if it is its turn."""
        settings = self._settings
        if settings.fault is None or sequences < settings.fault_batch:
            return
        if settings.fault_tokens > 1 and kv_tokens() < settings.fault_tokens:
            return
        self._steps += 1
        if self._steps % settings.fault_every:
            return
        if settings.fault == "memory":
            raise MemoryError("injected: the simulated GPU is out of memory")
        if settings.fault == "crash":
            raise RuntimeError("injected: the simulated GPU is gone")
        _hang()


def _hang() -> NoReturn:
    while True:
        time.sleep(_LONG_S)
