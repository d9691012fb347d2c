"""Decides which model to load and which to unload next. Pure: the time is passed in.

A model that is asked for is loaded where there is room, or where unloading others makes some. Those
that have been idle for longest go first. One that is in use stays, and serves requests that came
after those that wait, until somebody has waited for `max_wait_s`; then it finishes what it runs.
None is unloaded within `min_loaded_s` of its being loaded. So the models take turns, a request
waits for at most `max_wait_s`, the answers that run then, and those who waited before it, and there
are few loads. One that is asked for in quick succession isn't idle in each pause between requests:
it is kept for some more of its usual pauses. Where more models are asked for than can be in time,
API keys take turns: one that asks for many models has no more turns than one that asks for a single
one.

Why no order of messages does harm:

- Memory counts from the order to load until the process has ended, so what is loaded next never
  meets what is unloaded. A model is not loaded again before it has ended either.
- A request that comes while its model is unloaded is refused by the engine, and waits in its
  frontend, which says so: the model is asked for again, behind those that waited before.
- What a frontend says of its demand is replaced by what it says next, and comes in order. A message
  older than an unload asks at worst for one load more, which then is idle and goes first. One that
  is older than a request that runs already costs that request nothing: the engine finishes it.
- What a frontend wanted is forgotten when it dies, by whoever calls `decide`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf

import msgspec

from vgate.config.model import Model, Residency
from vgate.launcher.residency.room import Room
from vgate.launcher.residency.use import NOTHING, Status, Use, Wanted

# A model that isn't in use now is kept for this share of `max_wait_s` at most, or `min_loaded_s` if
# that is longer.
_KEPT_SHARE = 0.25
# Frontends report four times a second, so all have said within this time what they use.
_HEARD_S = 0.5
# One that hasn't is waited for, but no longer than this.
_SILENT_S = 3.0
# So many API keys' last turns are remembered.
_MOST_TURNS = 1024


class Decision(msgspec.Struct):
    """What to do now.

    Attributes:
        load: The models to load, with the reason.
        unload: The models to unload once their requests are done, with the reason.
        queue: Those that wait for room, the next one first.
    """

    load: dict[str, str]
    unload: dict[str, str]
    queue: list[str]


class Policy:
    """Decides for a set of models. All times are those of one clock.

    `models` are in the order in which they are loaded at the start.
    """

    def __init__(self, models: Sequence[Model], room: Room, settings: Residency) -> None:
        self._room = room
        self._settings = settings
        self._uses = {model.name: Use(model) for model in models}
        # When a model was last loaded for each API key; the latest one is last.
        self._turns: dict[str, float] = {}

    def decide(
        self,
        now: float,
        statuses: Mapping[str, Status],
        wanted: Mapping[str, Wanted],
        heard_at: float = inf,
    ) -> Decision:
        """Return what to do now. Call it several times a second.

        `heard_at` is when the frontend that has been silent longest last reported.
        """
        for name, use in self._uses.items():
            use.see(now, statuses[name], wanted.get(name, NOTHING))
        decision = Decision({}, self._expired(now), [])
        # In memory now, and once those have ended that are unloaded and those are loaded that wait.
        held = {name for name, status in statuses.items() if status != "unloaded"}
        ending = {name for name, status in statuses.items() if status == "unloading"}
        staying = held - ending - decision.unload.keys()
        for name, latest in self._in_turn(self._waiting(statuses), now):
            if statuses[name] == "unloading":
                decision.queue.append(name)
                continue
            if not self._room.fits(staying | {name}, name):
                overdue = now >= latest
                asked_at = self._uses[name].asked_at or 0.0
                all_heard = now >= asked_at + (_HEARD_S if heard_at >= asked_at else _SILENT_S)
                victims = self._victims(name, staying, now, overdue=overdue) if all_heard else []
                decision.unload |= dict.fromkeys(victims, f"{name} is asked for")
                staying -= set(victims)
                decision.queue.append(name)
                if not (victims or overdue):
                    continue  # others may go first
            elif self._room.fits(held | {name}, name):
                decision.load[name] = self._uses[name].why
                held.add(name)
                self._note_turn(self._uses[name].wanted.keys, now)
            else:
                decision.queue.append(name)
            staying.add(name)
        if not (decision.queue or decision.unload or ending):
            decision.load |= dict.fromkeys(self._residents(held, now), "there is room for it")
        return decision

    def order_load(self, name: str, now: float) -> None:
        """Load a model as if a request named it now."""
        use = self._uses[name]
        use.put_away, use.failed_until = False, 0.0
        if use.ordered_at is None and use.since is None:
            use.ordered_at = now

    def put_away(self, name: str) -> None:
        """Take note that a model is unloaded until it is asked for."""
        self._uses[name].put_away = True
        self._uses[name].ordered_at = None

    def failed(self, name: str, until: float) -> None:
        """Take note that a model can't be loaded, and isn't to be tried for a while."""
        self._uses[name].failed_until = until
        self._uses[name].ordered_at = None

    def _in_turn(self, waiting: Sequence[tuple[str, float]], now: float) -> list[tuple[str, float]]:
        """Return those that wait in the order of their turns.

        Whoever has waited for longer than a request should goes first; of these, the one that a key
        waits for whose last turn is longest ago. So a key's wait is prolonged by a turn of each
        other key at most, and not by one of each model that these ask for.
        """
        late = [each for each in waiting if now >= self._due(each[0])]
        late.sort(key=lambda each: self._last_turn(each[0]))
        return late + [each for each in waiting if each not in late]

    def _due(self, name: str) -> float:
        """Return until when a model that is asked for should be loaded."""
        return (self._uses[name].asked_at or 0.0) + self._settings.max_wait_s

    def _last_turn(self, name: str) -> float:
        """Return when the key had a turn that waits for a model and whose turn is longest ago."""
        keys = self._uses[name].wanted.keys
        return min((self._turns.get(key, -inf) for key in keys), default=-inf)

    def _note_turn(self, keys: Iterable[str], now: float) -> None:
        for key in keys:
            self._turns.pop(key, None)
            self._turns[key] = now
        while len(self._turns) > _MOST_TURNS:
            del self._turns[next(iter(self._turns))]

    def _waiting(self, statuses: Mapping[str, Status]) -> list[tuple[str, float]]:
        """Return the models that somebody waits for, and when room is made for each at the latest.

        The oldest wait is first. Room is made in one place after the other, and again in the same
        one once the model there is loaded and may be unloaded again; so where several waits would
        run out at once, the first ones end earlier.
        """
        waiting = []
        for name, use in self._uses.items():
            if use.asked_at is not None and statuses[name] in ("unloaded", "unloading"):
                use.put_away = False
                waiting.append((use.asked_at, name))
        # What is unloaded now leaves its place to one of those that wait.
        places = max(
            1,
            sum(use.may_leave and statuses[name] != "unloaded" for name, use in self._uses.items()),
        )
        longest_s = max(use.swap_s for use in self._uses.values())
        found: list[tuple[str, float]] = []  # the last one first
        for asked_at, name in sorted(waiting, reverse=True):
            latest = asked_at + self._settings.max_wait_s
            if found:
                latest = min(latest, found[-1][1])
            if len(found) >= places:
                swap_s = self._uses[name].swap_s or longest_s
                latest = min(latest, found[-places][1] - self._settings.min_loaded_s - swap_s)
            found.append((name, latest))
        return found[::-1]

    def _expired(self, now: float) -> dict[str, str]:
        """Return the models that have been idle for as long as they may."""
        found = {}
        for name, use in self._uses.items():
            ttl_s = use.model.idle_ttl_s
            if not ttl_s or not use.may_leave or use.busy or use.since is None:
                continue
            if now - use.used_at >= ttl_s:
                use.put_away = True
                found[name] = f"it has been idle for {ttl_s:g} s"
        return found

    def _residents(self, held: Iterable[str], now: float) -> Iterator[str]:
        """Yield the models that should be loaded and for which there is room."""
        loaded = set(held)
        wanted = [use for use in self._uses.values() if use.model.load != "on_demand"]
        for use in sorted(wanted, key=lambda use: use.model.load != "pinned"):
            name = use.model.name
            if name in loaded or use.put_away or now < use.failed_until:
                continue
            if self._room.fits(loaded | {name}, name):
                loaded.add(name)
                yield name

    def _victims(self, name: str, staying: set[str], now: float, *, overdue: bool) -> list[str]:
        """Return the models whose unloading makes room for one; none if that can't be now."""
        chosen: list[str] = []
        for victim in self._may_go(staying, now, overdue=overdue):
            chosen.append(victim)
            if self._room.fits(staying - {*chosen} | {name}, name):
                break
        else:
            return []
        for victim in reversed(chosen[:-1]):  # those that make no difference stay
            if self._room.fits(staying - {*chosen} | {name, victim}, name):
                chosen.remove(victim)
        return chosen

    def _may_go(self, staying: set[str], now: float, *, overdue: bool) -> list[str]:
        """Return the models that may be unloaded, the best one first; busy ones if it is overdue.

        Of those that are idle it is the one whose last use is longest ago, of the others the one
        that was loaded first.
        """
        min_s = self._settings.min_loaded_s
        most_s = max(min_s, _KEPT_SHARE * self._settings.max_wait_s)
        idle, others = [], []
        for name in staying:
            use = self._uses[name]
            if not use.may_leave or use.asked_at is not None:
                continue
            if use.since is None:
                # It is being loaded, but nobody waits for it any more.
                others.append((-1.0, name))
            elif not use.may_go(now, min_s):
                continue
            elif use.is_idle(now, most_s):
                idle.append((use.used_at, name))
            else:
                others.append((use.loaded_at or 0.0, name))
        return [name for _, name in sorted(idle)] + [n for _, n in sorted(others) if overdue]
