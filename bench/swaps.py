"""How often models are loaded when not all of them fit, against the least that is possible.

    python -m bench.swaps [--requests 2000] [--models 6] [--room 2] [--seed 1]

The launcher's policy decides in simulated time over random requests. For each rate of requests it
prints the loads and the waits, and for the same longest wait: the loads of a schedule that knows
the future and keeps the same rules (`clairvoyant_loads`), and a number than which no schedule at
all has fewer (`least_loads`). Where models are asked for all the time, the policy comes near the
former. Where they aren't, it does not try to: requests would wait for nothing but the chance of
saving a load.
"""

import argparse
import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import nsmallest
from itertools import pairwise
from math import inf

import msgspec

from vgate.config.model import Model, Residency
from vgate.launcher.residency.policy import Policy
from vgate.launcher.residency.room import Room
from vgate.launcher.residency.use import Status, Wanted

_TICK_S = 0.1
_RATES = (8.0, 4.0, 10 / 3, 2.0, 1.0, 0.2, 0.05)
# So many schedules are followed at once; with more, no better one was found.
_KEPT = 200


class Request(msgspec.Struct):
    """A request for a model, and when it was served; times in seconds."""

    model: int
    arrival: float
    began: float = -1.0
    end: float = -1.0

    @property
    def wait_s(self) -> float:
        """How long it waited for its model."""
        return self.began - self.arrival


class Machine(msgspec.Struct):
    """What is simulated: `room` of `models` equal models fit, which take `load_s` to load.

    Attributes:
        loaded: Which are loaded at first.
    """

    models: int = 6
    room: int = 2
    load_s: float = 3.0
    answer_s: float = 0.5
    settings: Residency = Residency()
    loaded: tuple[int, ...] = ()


class Simulation:
    """The policy over a list of requests, which it serves.

    Attributes:
        loads: When which model was loaded.
    """

    def __init__(self, machine: Machine, requests: Sequence[Request]) -> None:
        self._machine = machine
        self._requests = requests
        self.loads: list[tuple[float, int]] = []
        self.most_held = 0
        names = [str(model) for model in range(machine.models)]
        room = Room({name: {"": 1} for name in names}, {"": machine.room})
        models = [Model(model_id=name, load="on_demand") for name in names]
        self._policy = Policy(models, room, machine.settings)
        self._statuses: dict[str, Status] = dict.fromkeys(names, "unloaded")
        self._statuses |= {str(model): "ready" for model in machine.loaded}
        self._ready_at: dict[str, float] = {}
        self._waiting: dict[str, list[Request]] = {name: [] for name in names}
        self._running: dict[str, list[Request]] = {name: [] for name in names}
        self._used_at = dict.fromkeys(names, 0.0)

    def run(self) -> None:
        """Serve all requests."""
        now, arrived = 0.0, 0
        while arrived < len(self._requests) or any(self._waiting.values()):
            while arrived < len(self._requests) and self._requests[arrived].arrival <= now:
                self._arrive(self._requests[arrived])
                arrived += 1
            self._pass_time(now)
            self._decide(now)
            self.most_held = max(
                self.most_held, sum(status != "unloaded" for status in self._statuses.values())
            )
            now += _TICK_S

    def _arrive(self, request: Request) -> None:
        name = str(request.model)
        if self._statuses[name] == "ready":
            self._serve(name, request, request.arrival)
        else:
            self._waiting[name].append(request)

    def _serve(self, name: str, request: Request, now: float) -> None:
        request.began, request.end = now, now + self._machine.answer_s
        self._running[name].append(request)

    def _pass_time(self, now: float) -> None:
        for name, status in self._statuses.items():
            running = self._running[name]
            ended = [request for request in running if request.end <= now]
            if ended:
                self._used_at[name] = max(request.end for request in ended)
                running[:] = [request for request in running if request.end > now]
            if status == "loading" and now >= self._ready_at[name]:
                self._statuses[name] = "ready"
                for request in self._waiting[name]:
                    self._serve(name, request, now)
                self._waiting[name].clear()
            elif status == "unloading" and not running:
                self._statuses[name] = "unloaded"

    def _decide(self, now: float) -> None:
        wanted = {
            name: Wanted(
                len(waiting),
                len(self._running[name]),
                waiting[0].arrival if waiting else 0.0,
                now if self._running[name] else self._used_at[name],
            )
            for name, waiting in self._waiting.items()
        }
        decision = self._policy.decide(now, self._statuses, wanted)
        for name in decision.unload:
            self._statuses[name] = "unloading"
        for name in decision.load:
            self._statuses[name] = "loading"
            self._ready_at[name] = now + self._machine.load_s
            self.loads.append((now, int(name)))


def random_requests(count: int, models: int, rate: float, seed: int) -> list[Request]:
    """Return requests that come at random, as often for each model."""
    chance = random.Random(seed)
    now, requests = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        requests.append(Request(chance.randrange(models), now))
    return requests


def least_loads(machine: Machine, requests: Sequence[Request], longest_s: float) -> int:
    """Return how many loads there are at least if no request may wait for longer.

    All but `room` models are out of memory at each moment. A model that is put out at some time is
    loaded again `longest_s` after the next request for it at the latest. So for each number of its
    loads there is a longest time that it can be out in all; no order of loads does better than to
    take the best of these of each model, even if they don't go together.
    """
    horizon = requests[-1].arrival
    totals = [0.0]
    for model in range(machine.models):
        arrivals = [request.arrival for request in requests if request.model == model]
        outs = _longest_out(arrivals, longest_s - machine.load_s, machine.load_s, horizon)
        joined = [0.0] * (len(totals) + len(outs) - 1)
        for count, total in enumerate(totals):
            for loads, out_s in enumerate(outs):
                joined[count + loads] = max(joined[count + loads], total + out_s)
        totals = joined
    must_s = (machine.models - machine.room) * horizon
    # A float's sum may be a little less than the horizon that it is made of.
    return next(n for n, total in enumerate(totals) if total >= must_s * (1 - 1e-9))


def _longest_out(
    arrivals: Sequence[float], most_late_s: float, load_s: float, horizon: float
) -> list[float]:
    """Return for how long a model can be out of memory in all, for each number of loads.

    Being out is best begun right after a request, or as soon as the model is loaded again. After
    the last request it takes no load.
    """
    ends = [arrival + most_late_s for arrival in arrivals]
    begins = sorted({0.0, *arrivals, *(end + load_s for end in ends)})
    begins = [begin for begin in begins if begin < horizon] + [horizon]
    free = [horizon - max([begin, *arrivals[-1:]]) for begin in begins]
    after = []  # by where it begins: how long it is out, and where it may begin again
    for begin in begins[:-1]:
        following = bisect_right(arrivals, begin) if begin else 0
        end = min(horizon, ends[following]) if following < len(ends) else begin
        again = bisect_right(begins, end + load_s - 1e-9)
        after.append((end - begin, min(again, len(begins) - 1)))
    best, beyond = [free[0]], free
    while best[-1] < horizon * (1 - 1e-9):
        here = [0.0] * len(begins)
        for at in range(len(after) - 1, -1, -1):
            out_s, again = after[at]
            here[at] = max(here[at + 1], out_s + beyond[again])
        if here[0] <= best[-1] + 1e-9:
            break
        best.append(here[0])
        beyond = here
    return best


class _Schedule(msgspec.Struct, frozen=True):
    """How far a schedule is.

    Attributes:
        held: The models that are loaded, and from when on each may be unloaded.
        out: The others, and when room is made for each at the latest, the first one first.
    """

    held: tuple[tuple[float, int], ...]
    out: tuple[tuple[float, int], ...]


def clairvoyant_loads(machine: Machine, requests: Sequence[Request], longest_s: float) -> int:
    """Return the loads of the best schedule that was found of those that know all requests.

    It keeps the policy's rules: no request waits for longer, and no model is unloaded within
    `min_loaded_s`; only where both can't be, requests wait for as much longer as they must. Each
    model is loaded as late as these allow, so what is left open is which one goes for it. Of all
    schedules with as many loads those are followed whose models may stay out for longest.
    """
    arrivals: list[list[float]] = [[] for _ in range(machine.models)]
    for request in requests:
        arrivals[request.model].append(request.arrival)
    most_s = longest_s - machine.load_s

    def due(model: int, since: float) -> tuple[float, int]:
        following = bisect_right(arrivals[model], since)
        late = following == len(arrivals[model])
        return inf if late else arrivals[model][following] + most_s, model

    out = [due(model, -1.0) for model in range(machine.models) if model not in machine.loaded]
    held = [(0.0, model) for model in machine.loaded]
    schedules = {_Schedule(tuple(sorted(held)), tuple(sorted(out)))}
    loads = 0
    while all(each.out and each.out[0][0] < inf for each in schedules):
        after: dict[_Schedule, float] = {}
        for each in schedules:
            for late_s, schedule in _next_loads(machine, each, due, most_s):
                after[schedule] = min(after.get(schedule, inf), late_s)
        least_s = min(after.values())
        punctual = [each for each, late_s in after.items() if late_s <= least_s]
        schedules = set(nsmallest(_KEPT, punctual, key=_urgency))
        loads += 1
    return loads


def _urgency(schedule: _Schedule) -> tuple[object, ...]:
    ends = sum(end < inf for end, _ in schedule.out)
    soon = -sum(end for end, _ in schedule.out if end < inf)
    return ends, soon, schedule.held, schedule.out


def _next_loads(
    machine: Machine,
    schedule: _Schedule,
    due: Callable[[int, float], tuple[float, int]],
    most_s: float,
) -> list[tuple[float, _Schedule]]:
    """Return the schedules with one load more, and how much too late it is in each."""
    (end, model), *out = schedule.out
    stays_s = machine.load_s + machine.settings.min_loaded_s
    if len(schedule.held) < machine.room:
        held = (*schedule.held, (end - most_s + stays_s, model))
        return [(0.0, _Schedule(tuple(sorted(held)), tuple(out)))]
    # In each place one is loaded after the other.
    latest = [each for each, _ in schedule.out]
    for at in range(len(latest) - 1 - machine.room, -1, -1):
        latest[at] = min(*latest[at : at + 2], latest[at + machine.room] - stays_s)
    found = []
    for place, (free, goes) in enumerate(schedule.held):
        now = max(latest[0], free, end - most_s)
        held = (*schedule.held[:place], *schedule.held[place + 1 :], (now + stays_s, model))
        others = (*out, due(goes, now))
        each = _Schedule(tuple(sorted(held)), tuple(sorted(others)))
        found.append((max(0.0, now - end), each))
    return found


def main() -> None:
    """Print the figures for several rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in (("requests", 2000), ("models", 6), ("room", 2), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    machine = Machine(options.models, options.room)
    sys.stdout.write(
        "requests/s  loads  clairvoyant  at least  longest wait  mean wait  switches as they come\n"
    )
    for rate in _RATES:
        requests = random_requests(options.requests, options.models, rate, options.seed)
        simulation = Simulation(machine, requests)
        simulation.run()
        waits = [request.wait_s for request in requests]
        longest_s = max(waits)
        known = clairvoyant_loads(machine, requests, longest_s)
        least = least_loads(machine, requests, longest_s)
        switches = sum(a.model != b.model for a, b in pairwise(requests))
        sys.stdout.write(
            f"{rate:10g} {len(simulation.loads):6d} {known:12d} {least:9d} {longest_s:11.1f} s "
            f"{sum(waits) / len(waits):8.1f} s {switches:22d}\n"
        )


if __name__ == "__main__":
    main()
