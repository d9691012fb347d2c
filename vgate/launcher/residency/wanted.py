"""What the frontends want of the models that may be unloaded, together."""

from collections.abc import Collection, Mapping
from math import inf

from vgate.launcher.residency.use import Wanted
from vgate.wire.control import Demand, ModelDemand


class WantedModels:
    """What all frontends want of the models of `names`. Times are those of a `JudgesClock`.

    After a reload a frontend may know other models; they are left out.

    Attributes:
        heard_at: When the frontend that has been silent longest last reported.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.heard_at = inf
        self._names = names
        # By the frontend's pid.
        self._wanted: dict[int, dict[str, Wanted]] = {}

    def hear(self, message: ModelDemand, now: float) -> None:
        """Take over what a frontend's requests want."""
        self._wanted[message.pid] = {
            name: _dated(demand, now) for name, demand in message.models.items()
        }

    def see(self, heard: Mapping[int, float]) -> None:
        """Take over when each frontend was last heard, and forget what others wanted."""
        self.heard_at = min(heard.values(), default=inf)
        for pid in self._wanted.keys() - heard:
            del self._wanted[pid]

    def together(self) -> dict[str, Wanted]:
        """Return what all frontends want."""
        found: dict[str, Wanted] = {}
        for wants in self._wanted.values():
            for name, new in wants.items():
                if name not in self._names:
                    continue
                old = found.get(name)
                found[name] = new if old is None else _sum(old, new)
        return found


def _dated(demand: Demand, now: float) -> Wanted:
    used_at = now if demand.running else now - demand.idle_s if demand.idle_s is not None else 0.0
    keys = frozenset(demand.keys)
    return Wanted(demand.waiting, demand.running, now - demand.oldest_s, used_at, keys)


def _sum(a: Wanted, b: Wanted) -> Wanted:
    since = min((each.since for each in (a, b) if each.waiting), default=0.0)
    used_at = max(a.used_at, b.used_at)
    waiting, running = a.waiting + b.waiting, a.running + b.running
    return Wanted(waiting, running, since, used_at, a.keys | b.keys)
