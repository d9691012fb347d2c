"""prometheus_client's values, written to the worker's files once in each turn of the event loop.

A count costs prometheus_client a lock, a system call for the process id and a write to a mapped
file, and a request makes about ten. Gathering them makes 64 clients' cached hits 6 % faster (97 us
instead of 103) and answers of 16 tokens 5 %. A process that is killed loses its last turn's counts.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import values


class Gatherer:
    """Adds up counts until the end of a turn. For one thread.

    `value` replaces `values.ValueClass`, which is private to prometheus_client; its readme
    ("Multiprocess Mode") replaces it, too.

    Args:
        worker: The number in the names of the files. A process continues those of an earlier one.
    """

    def __init__(self, worker: int) -> None:
        self._written: Any = values.MultiProcessValue(process_identifier=lambda: worker)  # type: ignore[no-untyped-call]
        self._changed: list[GatheredValue] = []
        self._call_soon: Callable[[Callable[[], None]], object] | None = None

    def gather(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Write counts when `call_soon` runs its callback; before this they are written at once."""
        self._call_soon = call_soon

    def value(self, *arguments: Any, **more: Any) -> "GatheredValue":
        """Make a value, with the arguments of prometheus_client's own."""
        return GatheredValue(self, self._written(*arguments, **more))

    def changed(self, value: "GatheredValue") -> None:
        """Write a value at the end of this turn."""
        self._changed.append(value)
        if self._call_soon is None:
            self.write()
        elif len(self._changed) == 1:
            self._call_soon(self.write)

    def write(self) -> None:
        """Write the changed values."""
        changed, self._changed = self._changed, []
        for value in changed:
            value.write()


class GatheredValue:
    """One number of a metric, with what counters and histograms use of prometheus_client's own."""

    __slots__ = ("_gatherer", "_waiting", "_written")

    def __init__(self, gatherer: Gatherer, written: Any) -> None:
        self._gatherer = gatherer
        self._written = written
        self._waiting = 0.0

    def inc(self, amount: float) -> None:
        """Add to the sum."""
        waiting = self._waiting
        self._waiting = waiting + amount
        if not waiting and amount:
            self._gatherer.changed(self)

    def write(self) -> None:
        """Write what was added since the last write."""
        waiting, self._waiting, written = self._waiting, 0.0, self._written
        # As `inc` of prometheus_client does, without its lock and system call.
        written._value += waiting  # noqa: SLF001
        written._file.write_value(written._key, written._value, 0.0)  # noqa: SLF001

    def get(self) -> float:
        """Return the sum, including what is not written yet."""
        written: float = self._written.get()
        return written + self._waiting

    def get_exemplar(self) -> None:
        """Return None: exemplars don't exist in multiprocess mode."""
