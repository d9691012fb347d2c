"""When Python's garbage collector searches a worker's objects, during which nothing else runs.

It takes 75 ns and more for each object that it looks at. Left to itself, it looks at 200,000 new
ones together, and then at all that are alive, as at those of the largest bodies: 40 ms and more.
So new objects are searched a few at a time, and all of them when there are few.
"""

import asyncio
import gc
from collections.abc import Callable

# A request leaves a few reference cycles; the default of 700 new objects searches too often.
_NEW_OBJECTS = 10_000
# After more such searches, those that outlived them are searched once more, in a few milliseconds.
_SEARCHES = 4
# Python's own search of everything comes after so many of the second kind: never.
_NEVER = 1_000_000_000
# How many of the second kind make one of everything worth while.
_DUE = 80
_LOOK_S = 1.0
# What requests may hold then: bodies of 512 KB, which make up to 170,000 lists.
_FEW_BYTES = 4 * 1024 * 1024
# If requests always hold more, what some of them leave must not grow for ever.
_LATEST_S = 600.0


class Garbage:
    """Decides when the collector searches.

    Args:
        held_bytes: Returns what requests hold, as `Memory` in `vgate.frontend.http` estimates it.
        collect: Searches everything.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        held_bytes: Callable[[], int],
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._loop = loop
        self._held_bytes = held_bytes
        self._collect = collect
        self._searched = _searches()
        self._due_since: float | None = None

    def begin(self) -> None:
        """Leave out what is alive now, as modules, and begin to decide. Call it once."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS, _SEARCHES, _NEVER)
        self._look()

    def _look(self) -> None:
        self._loop.call_later(_LOOK_S, self._look)
        if _searches() - self._searched < _DUE:
            return
        now = self._loop.time()
        if self._due_since is None:
            self._due_since = now
        if self._held_bytes() <= _FEW_BYTES or now - self._due_since >= _LATEST_S:
            self._collect()
            self._searched, self._due_since = _searches(), None


def _searches() -> int:
    """Return how often objects were searched that had outlived a search."""
    return int(gc.get_stats()[1]["collections"])
