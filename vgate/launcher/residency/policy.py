"""Decides which model to load and which to unload next. Pure: the time is passed in.

A model that is asked for is loaded where there is room, or where unloading others makes some. Those
that have been idle for longest go first. One that is in use stays, and serves requests that came
after those that wait, until somebody has waited for `max_wait_s`; then it finishes what it runs.
None is unloaded within `min_loaded_s` of its being loaded. So the models take turns, a request
waits for at most `max_wait_s`, the answers that run then, and those who waited before it, and there
are few loads. One that is asked for in quick succession isn't idle in each pause between requests:
it is kept for some more of its usual pauses.

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
from typing import Literal

import msgspec

from vgate.config.model import Load, Residency
from vgate.launcher.residency.room import Room

# loading: it starts, or starts again after it has died. unloading: it finishes what it runs.
Status = Literal["unloaded", "loading", "ready", "unloading"]

# Frontends hand over within this time what waited for a model that has become ready.
_HANDED_OVER_S = 5.0
# A model with requests in quick succession is idle after so many of its usual pauses.
_PAUSES = 8
# It is kept for them if the next request is likely within the longest time that others wait for it:
# this share of `max_wait_s`, or `min_loaded_s` if that is longer.
_SHORT = 3
# So many requests that waited tell how often they come.
_TELLING = 4
_KEPT_SHARE = 0.25
# All frontends have said within this time what they use: they do so four times a second.
_HEARD_S = 0.5
# Two reports of one use differ by less.
_JITTER_S = 0.05


class Wanted(msgspec.Struct, frozen=True):
    """What all frontends want of a model.

    Attributes:
        waiting, running: How many requests wait for it to be loaded, and how many it has.
        since: When the first of those that wait began to.
        used_at: When a request for it last came, ran or ended, as far as is known.
    """

    waiting: int = 0
    running: int = 0
    since: float = 0.0
    used_at: float = 0.0


_NOTHING = Wanted()


class Managed(msgspec.Struct, frozen=True):
    """A model's name, when it is loaded, and after how long an idle one is unloaded (0: never)."""

    name: str
    load: Load
    idle_ttl_s: float = 0.0


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


class Use:
    """What is known of the use of a model.

    Attributes:
        since: When it became ready; None if it isn't.
        used_at: When it was last in use, as far as is known.
        asked_at: Since when somebody waits for it to be loaded; None if nobody does.
        ordered_at: When an operator ordered to load it; None once it is.
        put_away: It is loaded again only when somebody asks for it.
        failed_until: Until when it is not tried again.
        load_s: How long it took to load the last time; 0 before.
        wanted: What the frontends want of it.
    """

    def __init__(self, model: Managed) -> None:
        self.model = model
        self.since: float | None = None
        self.used_at = self.failed_until = 0.0
        self.asked_at: float | None = None
        self.ordered_at: float | None = None
        self.put_away = False
        self.wanted = _NOTHING
        self.load_s = 0.0
        # Since when it loads.
        self._began: float | None = None
        # Whether it was used since it became ready; and its usual pause between requests.
        self._used = False
        self._pause_s: float | None = None

    def see(self, now: float, status: Status, wanted: Wanted) -> None:
        """Take over how it is, and what is wanted of it."""
        if status != "ready":
            self.since = None
            if status != "loading":
                self._began = None
            elif self._began is None:
                self._began = now
        elif self.since is None:
            if self._began is not None:
                self.load_s, self._began = now - self._began, None
            self.since = self.used_at = now
            self._used = False
            self.ordered_at, self.failed_until = None, 0.0
            waited = wanted if wanted.waiting else self.wanted
            if waited.waiting >= _TELLING:
                self._pause_s = (now - waited.since) / waited.waiting
        was_busy, self.wanted = self.busy, wanted
        if wanted.used_at > self.used_at:
            pause_s = wanted.used_at - self.used_at
            if self._used and not was_busy and pause_s > _JITTER_S:
                known = pause_s if self._pause_s is None else self._pause_s
                self._pause_s = 0.7 * known + 0.3 * pause_s
            self.used_at = wanted.used_at
            self._used = self.since is not None
        waits = [wanted.since] if wanted.waiting else []
        if self.ordered_at is not None:
            waits.append(self.ordered_at)
        loads = status != "ready" and now >= self.failed_until
        self.asked_at = min(waits, default=None) if loads else None

    @property
    def busy(self) -> bool:
        """Whether requests run, or are about to."""
        return bool(self.wanted.running or self.wanted.waiting)

    @property
    def why(self) -> str:
        """Why it is loaded."""
        count = self.wanted.waiting
        if not count:
            return "an operator's order"
        return "a request waits for it" if count == 1 else f"{count} requests wait for it"

    @property
    def may_leave(self) -> bool:
        """Whether it may be unloaded for others at all."""
        return self.model.load != "pinned"

    def is_idle(self, now: float, most_s: float) -> bool:
        """Whether the next request isn't expected soon; most_s: the longest that is waited for."""
        if self.busy:
            return False
        pause_s = self._pause_s
        if pause_s is None or _SHORT * pause_s > most_s:
            return True
        return now - self.used_at >= min(_PAUSES * pause_s, most_s)

    def may_go(self, now: float, min_loaded_s: float) -> bool:
        """Whether it has been loaded for long enough."""
        least_s = max(min_loaded_s, _HANDED_OVER_S if self.wanted.waiting else 0.0)
        return self.since is not None and now - self.since >= least_s


class Policy:
    """Decides for a set of models. All times are those of one clock.

    Args:
        models: The models, in the order in which they are loaded at the start.
        room: What fits together.
        settings: How long models stay, and requests wait.
    """

    def __init__(self, models: Sequence[Managed], room: Room, settings: Residency) -> None:
        self._room = room
        self._settings = settings
        self._uses = {model.name: Use(model) for model in models}

    def decide(
        self, now: float, statuses: Mapping[str, Status], wanted: Mapping[str, Wanted]
    ) -> Decision:
        """Return what to do now. Call it several times a second."""
        for name, use in self._uses.items():
            use.see(now, statuses[name], wanted.get(name, _NOTHING))
        decision = Decision({}, self._expired(now), [])
        # In memory now, and once those have ended that are unloaded and those are loaded that wait.
        held = {name for name, status in statuses.items() if status != "unloaded"}
        ending = {name for name, status in statuses.items() if status == "unloading"}
        staying = held - ending - decision.unload.keys()
        for name, latest in self._waiting(statuses):
            if statuses[name] == "unloading":
                decision.queue.append(name)
                continue
            if not self._room.fits(staying | {name}, name):
                overdue = now >= latest
                heard = now - (self._uses[name].asked_at or 0.0) >= _HEARD_S
                victims = self._victims(name, staying, now, overdue=overdue) if heard else []
                decision.unload |= dict.fromkeys(victims, f"{name} is asked for")
                staying -= set(victims)
                decision.queue.append(name)
                if not (victims or overdue):
                    continue  # others may go first
            elif self._room.fits(held | {name}, name):
                decision.load[name] = self._uses[name].why
                held.add(name)
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

    def _waiting(self, statuses: Mapping[str, Status]) -> list[tuple[str, float]]:
        """Return the models that somebody waits for, and when room is made for each at the latest.

        The oldest wait is first. Room is made for one after the other, as fast as models are loaded
        and may be unloaded again; so where several waits would run out at once, the first ones end
        earlier.
        """
        waiting = []
        for name, use in self._uses.items():
            if use.asked_at is not None and statuses[name] in ("unloaded", "unloading"):
                use.put_away = False
                waiting.append((use.asked_at, name))
        places = sum(
            use.may_leave and statuses[name] in ("ready", "loading")
            for name, use in self._uses.items()
        )
        longest_s = max(use.load_s for use in self._uses.values())
        latest = float("inf")
        found = []
        for asked_at, name in sorted(waiting, reverse=True):
            load_s = self._uses[name].load_s or longest_s
            apart_s = (self._settings.min_loaded_s + load_s) / max(1, places)
            latest = min(latest - apart_s, asked_at + self._settings.max_wait_s)
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
                others.append((use.since, name))
        return [name for _, name in sorted(idle)] + [n for _, n in sorted(others) if overdue]
