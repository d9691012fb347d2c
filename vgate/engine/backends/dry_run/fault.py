"""Faults on purpose: the simulated engine runs out of memory, crashes or hangs."""

import time

from vgate.config.schema import DryRun

_LONG_S = 3600.0


class Fault:
    """Strikes in every n-th step that has enough sequences in it, as the settings say."""

    def __init__(self, settings: DryRun) -> None:
        self._settings = settings
        self._steps = 0

    def step(self, sequences: int) -> None:
        """Count a step with so many sequences; strike if it is its turn."""
        settings = self._settings
        if settings.fault is None or sequences < settings.fault_batch:
            return
        self._steps += 1
        if self._steps % settings.fault_every:
            return
        if settings.fault == "memory":
            raise MemoryError("injected: the simulated GPU is out of memory")
        if settings.fault == "crash":
            raise RuntimeError("injected: the simulated GPU is gone")
        while True:
            time.sleep(_LONG_S)
