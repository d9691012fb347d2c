"""What a worker tells the launcher of the models that its requests want."""

import os
from collections.abc import Callable

from vgate.config import Runtime
from vgate.frontend.engines.residency.residence import Residence, WaitingRoom
from vgate.wire.control import Demand, ModelDemand

_DemandOf = Callable[[], Demand]


class Wanted:
    """Sends `ModelDemand`: at once when a request begins to wait, and with heartbeats.

    Args:
        runtime: The instance's settings.
        clock: Returns the event loop's time.
        tell: Sends it.
    """

    def __init__(
        self, runtime: Runtime, clock: Callable[[], float], tell: Callable[[ModelDemand], None]
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._tell = tell
        self._room = WaitingRoom(runtime.config.residency.max_waiting)
        self._models: dict[str, tuple[Residence, _DemandOf]] = {}
        # Of each model, when it was last used as far as the launcher knows.
        self._told: dict[str, float | None] = {}
        self._had_any = False

    def residence_of(self, name: str) -> Residence | None:
        """Return where requests wait for a model; None if it always is loaded."""
        engines = self._runtime.engines_of(name).values()
        if self._runtime.config.unloads_models and any(spec.supervised for spec in engines):
            return Residence(self._room, self._clock)
        return None

    def add(self, name: str, residence: Residence | None, demand: _DemandOf) -> None:
        """Tell of a model; `demand` returns what requests want of it now."""
        if residence is not None:
            self._models[name] = residence, demand
            residence.on_first = self.tell

    def tell(self) -> None:
        """Tell what is wanted now, if anything is, and once after."""
        wanted = {}
        for name, (residence, demand_of) in self._models.items():
            demand = demand_of()
            # One that came and ended since then counts as well.
            if demand.waiting or demand.running or residence.used_at != self._told.get(name):
                wanted[name] = demand
            self._told[name] = residence.used_at
        if wanted or self._had_any:
            self._had_any = bool(wanted)
            self._tell(ModelDemand(os.getpid(), wanted))
