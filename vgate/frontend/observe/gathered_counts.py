"""prometheus_client's values, written to the worker's files once a turn of the event loop.

A count costs prometheus_client a lock, a look at the process's number and a write into a mapped
file; a request makes about ten. Those of one turn are added up here and written together. What asks
for them gets the sum at any time; a process that is killed loses those of its last turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import values


class Gatherer:
    """Adds up what is counted until the end of a turn. For one thread.

    Args:
        process: What names this process's files.
    """

    def __init__(self, process: int) -> None:
        self._written: Any = values.MultiProcessValue(process_identifier=lambda: process)  # type: ignore[no-untyped-call]
        self._changed: list[GatheredValue] = []
        self._call_soon: Callable[[Callable[[], None]], object] | None = None

    def gather(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Have counts wait until `call_soon` calls; before this they are written at once."""
        self._call_soon = call_soon

    def value(self, *arguments: Any, **more: Any) -> GatheredValue:
        """Make a value, as prometheus_client makes its own."""
        return GatheredValue(self, self._written(*arguments, **more))

    def changed(self, value: GatheredValue) -> None:
        """Have a value written at the end of this turn."""
        self._changed.append(value)
        if self._call_soon is None:
            self.write()
        elif len(self._changed) == 1:
            self._call_soon(self.write)

    def write(self) -> None:
        """Write what has changed."""
        changed, self._changed = self._changed, []
        for value in changed:
            value.write()


class GatheredValue:
    """One number of a metric, with prometheus_client's interface of such."""

    __slots__ = ("_gatherer", "_waiting", "_written")

    def __init__(self, gatherer: Gatherer, written: Any) -> None:
        self._gatherer = gatherer
        self._written = written
        self._waiting = 0.0

    def inc(self, amount: float) -> None:
        """Count."""
        waiting = self._waiting
        self._waiting = waiting + amount
        if not waiting and amount:
            self._gatherer.changed(self)

    def write(self) -> None:
        """Write what was counted since the last time."""
        waiting, self._waiting = self._waiting, 0.0
        self._written.inc(waiting)

    def get(self) -> float:
        """Return the sum."""
        written: float = self._written.get()
        return written + self._waiting

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace the sum."""
        self._waiting = 0.0
        self._written.set(value, timestamp)

    def set_exemplar(self, exemplar: Any) -> None:
        """Do nothing: there are none where several processes count."""

    def get_exemplar(self) -> None:
        """Return that there is none."""
