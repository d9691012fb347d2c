"""Models that aren't always loaded: who waits for one, and what the launcher is told of that.

If the worker lacks the model's text side, a request can't even be validated: it waits with its
body, as a visitor. Otherwise it is validated and tokenised at once, and its sequences wait where
those of a dead engine do (`vgate.frontend.engines.resumption`).
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from vgate.config import Runtime
from vgate.errors import EngineUnavailableError, OverloadedError, ShuttingDownError, VGateError
from vgate.frontend.engines.port import STATUS
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.wire.control import Demand, EngineState, ModelDemand

_MOST_BYTES = 64 * 1024 * 1024
_FULL_RETRY_S = 10.0
# A model that could not be loaded is tried again after a while.
_FAILED_RETRY_S = 30.0


class WaitingRoom:
    """Bounds what waits in one worker, for all models together.

    An API key's requests may take at most as much as they leave to the other keys': one alone gets
    half of the room, and however many it has, there is some for the next key.

    Args:
        most_requests: How many requests may wait.
        most_bytes: How many bytes of their prompts and bodies.
    """

    def __init__(self, most_requests: int, most_bytes: int = _MOST_BYTES) -> None:
        self._most_requests = most_requests
        self._most_bytes = most_bytes
        self.requests = 0
        self.size_bytes = 0
        # Of each API key, by its name.
        self._requests_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()

    def has_room(self, key: str = "") -> bool:
        """Whether another request may wait, of this API key; "": there are none."""
        requests_left = self._most_requests - self.requests
        bytes_left = self._most_bytes - self.size_bytes
        if key:
            requests_left -= self._requests_of[key]
            bytes_left -= self._bytes_of[key]
        return requests_left > 0 and bytes_left > 0

    def add(self, key: str, requests: int, size: int) -> None:
        """Count requests of a key, and bytes; both may be negative."""
        self.requests += requests
        self.size_bytes += size
        for counts, count in ((self._requests_of, requests), (self._bytes_of, size)):
            counts[key] += count
            if not counts[key]:
                del counts[key]


class _Waiting(msgspec.Struct):
    since: float
    key: str
    parts: int = 0


class Residence:
    """The requests that wait for one model.

    Args:
        room: Bounds what waits for all models.
        clock: Returns the event loop's time.

    Attributes:
        used_at: When the last request for the model came; None before one has.
        on_first: Called when a request begins to wait and none did.
        visitors: Those that wait without the model's text side.
        refusal: Why the model can't be loaded; None if it may be.
        closed: Whether nothing may begin to wait any more, because the server stops.
    """

    def __init__(self, room: WaitingRoom, clock: Callable[[], float]) -> None:
        self._room = room
        self._clock = clock
        self._waiting: dict[object, _Waiting] = {}
        self.visitors: dict[BaseAnswer, int] = {}
        # Since when requests wait whose engine has ended with them.
        self._lost_at: float | None = None
        self.used_at: float | None = None
        self.refusal: str | None = None
        self.closed = False
        self.on_first: Callable[[], None] = lambda: None

    def __contains__(self, answer: object) -> bool:
        return answer in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, key: str = "") -> bool:
        """Whether another request of this API key may wait."""
        return self._room.has_room(key)

    def use(self) -> None:
        """Note that a request for the model came.

        Raises:
            EngineUnavailableError: The model can't be loaded.
        """
        if self.refusal is not None:
            raise unavailable(self.refusal)
        self.used_at = self._clock()

    def enter(self, answer: object, size: int, key: str = "") -> None:
        """Count a part of a key's request, of so many bytes, among those that wait."""
        waiting = self._waiting.get(answer)
        if waiting is None:
            waiting = self._waiting[answer] = _Waiting(self._clock(), key)
            self._room.add(key, 1, 0)
            if len(self._waiting) == 1:
                self.on_first()
        waiting.parts += 1
        self._room.add(waiting.key, 0, size)

    def leave(self, answer: object, size: int) -> float:
        """Undo `enter`; return for how many seconds the request has waited."""
        waiting = self._waiting[answer]
        waiting.parts -= 1
        if not waiting.parts:
            del self._waiting[answer]
        self._room.add(waiting.key, -(not waiting.parts), -size)
        return self._clock() - waiting.since

    def visit(self, answer: BaseAnswer, size: int, key: str) -> None:
        """Have a request wait for the model's text side: its answer is done when that is there.

        Raises:
            VGateError: Too many wait, or the model can't be loaded, or the server stops.
        """
        self.use()
        if self.closed or not self.has_room(key):
            raise self.no_wait()
        self.visitors[answer] = size
        self.enter(answer, size, key)

    def no_wait(self) -> VGateError:
        """Return the error of a request that may not wait any more."""
        if self.closed:
            return ShuttingDownError()
        whose = " of this API key" if self.has_room() else ""
        return OverloadedError(
            f"too many requests{whose} wait for models to be loaded (residency.max_waiting); try "
            "again later",
            retry_after_s=_FULL_RETRY_S,
        )

    def end_visit(self, answer: BaseAnswer) -> float:
        """Undo `visit`; return for how many seconds the request has waited."""
        return self.leave(answer, self.visitors.pop(answer))

    def end_visits(self, error: VGateError | None) -> None:
        """Let the visitors go on, or end them with an error."""
        for answer in list(self.visitors):
            if error is not None:
                answer.fail(error)
            elif not answer.done.done():
                answer.done.set_result(None)

    def demand(self, lost: Sequence[str], running: int) -> Demand:
        """Return what this worker's requests want of the model.

        Args:
            lost: The keys of those that wait in the pool because their engine has ended.
            running: How many sequences run.
        """
        now = self._clock()
        if running:
            self.used_at = now
        since = next(iter(self._waiting.values())).since if self._waiting else now
        if not lost:
            self._lost_at = None
        else:
            if self._lost_at is None:
                self._lost_at = now
            since = min(since, self._lost_at)
        idle_s = None if self.used_at is None else now - self.used_at
        keys = dict.fromkeys([*(waiting.key for waiting in self._waiting.values()), *lost])
        named = tuple(keys)[: Demand.MOST_KEYS]
        return Demand(len(self._waiting) + len(lost), running, now - since, idle_s, named)

    def places(self) -> dict[object, int]:
        """Return how many requests of this worker wait for longer than each that waits."""
        return {answer: place for place, answer in enumerate(self._waiting)}


class Wanted:
    """Sends `ModelDemand`: at once when a request begins to wait, and with heartbeats."""

    def __init__(
        self, runtime: Runtime, clock: Callable[[], float], tell: Callable[[ModelDemand], None]
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._tell = tell
        self._room = WaitingRoom(runtime.config.residency.max_waiting)
        self._models: dict[str, tuple[Residence, Callable[[], Demand]]] = {}
        # Of each model, when it was last used as far as the launcher knows.
        self._told: dict[str, float | None] = {}
        self._had_any = False

    def residence_of(self, name: str) -> Residence | None:
        """Return where requests wait for a model; None if it always is loaded."""
        engines = self._runtime.engines_of(name).values()
        if self._runtime.config.unloads_models and any(spec.supervised for spec in engines):
            return Residence(self._room, self._clock)
        return None

    def add(self, name: str, residence: Residence | None, demand: Callable[[], Demand]) -> None:
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


def unavailable(reason: str) -> EngineUnavailableError:
    """Return the error of a request whose model can't be loaded."""
    return EngineUnavailableError(reason, retry_after_s=_FAILED_RETRY_S)


def situation(name: str, state: EngineState, place: int) -> str:
    """Return what a client that waits for a model is told.

    Nothing in it names other models, which may not be for that client; the launcher's words do
    where one makes room for another.
    """
    if state.state == "queued":
        others = f"{state.ahead} other model" + "s" * (state.ahead != 1)
        behind = f" behind {others}" if state.ahead else ", it waits for room in the memory"
        words = f"queued{behind}"
    elif state.state == "unloaded":
        words = "not loaded yet"
    elif state.state == "ready":
        words = "loaded"
    elif state.state == "draining" and state.drained:
        words = "kept from taking requests by an operator"
    elif state.state == "draining":
        words = "being unloaded, and is loaded again then"
    else:
        words = f"{STATUS[state.state]}, {state.detail}"
    ahead = f"; {place} request{'s' * (place != 1)} before this one" if place else ""
    return f"the model {name} is {words}{ahead}"
