"""What is known of the use of a model: who waits for it, and whether it is idle."""

from typing import Literal

import msgspec

from vgate.config.model import Model

# loading: it starts, or starts again after it has died. unloading: it finishes what it runs.
Status = Literal["unloaded", "loading", "ready", "unloading"]

# Frontends hand over within this time what waited for a model that has become ready.
_HANDED_OVER_S = 5.0
# A model with requests in quick succession is idle after so many of its usual pauses.
_PAUSES = 8
# It is kept for them if the next request is likely within the longest time that others wait for it.
_SHORT = 3
# So many requests that waited tell how often they come.
_TELLING = 4
# The usual pause is about the mean of so many. A few short ones in a row say little where requests
# come at random: a model would go while it is in use.
_REMEMBERED = 7
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
    keys: frozenset[str] = frozenset()


NOTHING = Wanted()


class Use:
    """What is known of the use of a model.

    Attributes:
        since: When it became ready; None if it isn't.
        loaded_at: When it first became ready since it was loaded; a restart doesn't change it.
        used_at: When it was last in use, as far as is known.
        asked_at: Since when somebody waits for it to be loaded; None if nobody does.
        ordered_at: When an operator ordered to load it; None once it is.
        put_away: It is loaded again only when somebody asks for it.
        failed_until: Until when it is not tried again.
        load_s, unload_s: How long it took to load and to unload the last time; 0 before.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.since: float | None = None
        self.loaded_at: float | None = None
        self.used_at = self.failed_until = 0.0
        self.asked_at: float | None = None
        self.ordered_at: float | None = None
        self.put_away = False
        self.wanted = NOTHING
        self.load_s = self.unload_s = 0.0
        # Since when it loads, and since when it is unloaded.
        self._began: float | None = None
        self._ending: float | None = None
        # Whether it was used since it became ready; its usual pause between requests, of how many.
        self._used = False
        self._pause_s: float | None = None
        self._pauses = 0

    def see(self, now: float, status: Status, wanted: Wanted) -> None:
        """Take over how it is, and what is wanted of it."""
        if status == "unloading":
            self._ending = now if self._ending is None else self._ending
        elif self._ending is not None:
            self.unload_s, self._ending = now - self._ending, None
        if status != "ready":
            self.since = None
            if status != "loading":
                self._began = self.loaded_at = None
            elif self._began is None:
                self._began = now
        elif self.since is None:
            if self._began is not None:
                self.load_s, self._began = now - self._began, None
            self.since = self.used_at = now
            if self.loaded_at is None:
                self.loaded_at = now
            self._used = False
            self.ordered_at, self.failed_until = None, 0.0
            waited = wanted if wanted.waiting else self.wanted
            if waited.waiting >= _TELLING:
                self._pauses = waited.waiting
                self._pause_s = (now - waited.since) / self._pauses
        was_busy, self.wanted = self.busy, wanted
        if wanted.used_at > self.used_at:
            pause_s = wanted.used_at - self.used_at
            if self._used and not was_busy and pause_s > _JITTER_S:
                known = pause_s if self._pause_s is None else self._pause_s
                self._pauses = min(self._pauses + 1, _REMEMBERED)
                self._pause_s = known + (pause_s - known) / self._pauses
            self.used_at = wanted.used_at
            self._used = self.since is not None
        waits = [wanted.since] if wanted.waiting else []
        if self.ordered_at is not None:
            waits.append(self.ordered_at)
        loads = status != "ready" and now >= self.failed_until
        self.asked_at = min(waits, default=None) if loads else None

    @property
    def swap_s(self) -> float:
        """How long it is likely to take until it is loaded, and later until it is unloaded again.

        An unload may take as long as an answer, but that is not taken for the rule.
        """
        return self.load_s + min(self.unload_s, self.load_s)

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
        """Whether it has been loaded for long enough, and has got what waited for it."""
        if self.since is None or self.loaded_at is None or now - self.loaded_at < min_loaded_s:
            return False
        return not self.wanted.waiting or now - self.since >= _HANDED_OVER_S
