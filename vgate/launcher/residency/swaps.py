"""Loads and unloads the engines of models as the policy decides."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vgate.config import Runtime
from vgate.config.model import Model
from vgate.config.section import MIB
from vgate.launcher.child import EngineChild
from vgate.launcher.residency.policy import Policy
from vgate.launcher.residency.room import Room
from vgate.launcher.residency.use import Status
from vgate.launcher.residency.wanted import WantedModels
from vgate.log import Log
from vgate.wire.control import (
    Drain,
    EngineState,
    LauncherToEngine,
    ModelOrder,
    StateName,
    Wake,
)

# How much longer than the longest request an engine may take to end.
_SLACK_S = 30.0
UNLOADED = "it is loaded when a request names it"
_ASLEEP = "it sleeps, and is woken when a request names it"

log = Log("vgate.launcher")


class Swap:
    """A model and its engines: where it is between being unloaded and being ready.

    Attributes:
        began: When it began to load or to unload.
        failure: Why it can't be loaded; "" if it may be.
        failed_until: Until when it isn't tried again.
        sleeps: Its engines are to sleep when they have finished their requests.
    """

    def __init__(self, model: Model, engines: Sequence[EngineChild]) -> None:
        self.model = model
        self.engines = engines
        self.began = self.ready_at = self.failed_until = 0.0
        self.reason = self.failure = ""
        self.told_ready = self.sleeps = False

    @property
    def status(self) -> Status:
        """How far it is; its memory is taken until the last process has ended."""
        if any(engine.wanted for engine in self.engines):
            return "ready" if any(engine.ready for engine in self.engines) else "loading"
        ends = any(engine.pid and not engine.asleep for engine in self.engines)
        return "unloading" if ends else "unloaded"

    @property
    def asleep(self) -> bool:
        """Whether an engine sleeps, or is about to."""
        return any(engine.asleep for engine in self.engines) or self.sleeps


class Swaps:
    """The models of an instance that may be unloaded. Times are those of a `JudgesClock`.

    `send` and `tell` are those of `Fleet`. `show` shows a text on the console.

    Attributes:
        starting: Models that are loaded at the start and haven't been ready yet.
    """

    def __init__(
        self,
        runtime: Runtime,
        room: Room,
        engines: Sequence[EngineChild],
        send: Callable[[bytes, LauncherToEngine], bool],
        tell: Callable[[EngineState], None],
        show: Callable[[str], None],
    ) -> None:
        self._drain = Drain(runtime.config.timeouts.request_s)
        self._room = room
        self._send, self._tell, self._show = send, tell, show
        models = runtime.config.all_models
        self._swaps = {
            model.name: Swap(model, [e for e in engines if e.spec.model == model.name])
            for model in models
        }
        self.wanted = WantedModels(self._swaps)
        self._policy = Policy(models, room, runtime.config.residency)
        for engine in engines:
            self._put_away(engine)
        self.starting: set[str] = set()
        self._advance(0.0)
        self.starting = {name for name, swap in self._swaps.items() if swap.status == "loading"}

    def advance(self, now: float) -> None:
        """Load and unload what should be. Call it several times a second."""
        for swap in self._swaps.values():
            if swap.status == "ready" and not swap.told_ready:
                self._on_ready(swap, now)
            elif swap.status == "unloading" and now - swap.began > self._drain.timeout_s + _SLACK_S:
                for engine in swap.engines:
                    engine.kill("it did not end")
            elif swap.failure and now >= swap.failed_until:
                detail = f"it could not be loaded ({swap.failure}); a request tries it again"
                swap.failure = ""
                self._enter_all(swap, "unloaded", detail)
            elif swap.status == "unloaded" and swap.asleep:
                ttl_s = swap.model.idle_ttl_s
                if ttl_s and now - swap.began >= ttl_s:
                    self._end_sleep(swap, f"nobody has asked for it for {ttl_s:g} s", now)
        self._advance(now)

    def _advance(self, now: float) -> None:
        statuses = {name: swap.status for name, swap in self._swaps.items()}
        decision = self._policy.decide(now, statuses, self.wanted.together(), self.wanted.heard_at)
        for name, reason in decision.unload.items():
            # An idle one gives everything back; one that makes room may be wanted again soon.
            sleeps = bool(decision.queue) and self._may_sleep(decision.queue, now)
            self._unload(self._swaps[name], reason, now, sleeps=sleeps)
        for name, reason in decision.load.items():
            self._load(self._swaps[name], reason, now)
        ending = [name for name, swap in self._swaps.items() if swap.status == "unloading"]
        for name, swap in self._swaps.items():
            if swap.status != "unloaded":
                continue
            if name in decision.queue:
                self._queue(swap, decision.queue.index(name), ending)
            elif swap.engines[0].state.state == "queued":  # whoever waited has left
                self._enter_all(swap, "unloaded", _ASLEEP if swap.asleep else UNLOADED)

    def _may_sleep(self, queue: Sequence[str], now: float) -> bool:
        """Whether one more may sleep; the one that has slept longest is ended if not."""
        # The first of those that wait is woken into the room that is made.
        asleep = [
            each for name, each in self._swaps.items() if each.asleep and name not in queue[:1]
        ]
        if len(asleep) < self._room.asleep:
            return True
        idle = [
            each
            for each in asleep
            if each.status == "unloaded" and not each.sleeps and each.model.name not in queue
        ]
        if longest := min(idle, key=lambda each: each.began, default=None):
            self._end_sleep(longest, "others may sleep in its place", now)
        return False

    def _load(self, swap: Swap, reason: str, now: float) -> None:
        swap.began, swap.reason, swap.told_ready, swap.failure = now, reason, False, ""
        for engine in swap.engines:
            engine.wanted, engine.restart_at = True, now
            engine.loads += 1
            self._enter(engine, "starting", "starting")

    def wake(self, engine: EngineChild, now: float) -> None:
        """Wake an engine that sleeps and is wanted."""
        engine.asleep, engine.restart_at = False, None
        engine.started_at = engine.last_beat = now
        if not (engine.peer and self._send(engine.peer, Wake())):
            engine.kill("it could not be woken")

    def _end_sleep(self, swap: Swap, reason: str, now: float) -> None:
        """End the processes of a model that sleeps."""
        swap.began, swap.reason = now, reason
        for engine in swap.engines:
            if engine.asleep:
                engine.asleep = False
                engine.unloads += 1
                engine.ending_since = now
                engine.terminate()

    def _on_ready(self, swap: Swap, now: float) -> None:
        swap.told_ready, swap.ready_at = True, now
        name = swap.model.name
        self.starting.discard(name)
        seconds = round(now - swap.began, 2)
        log.info("model loaded", model=name, reason=swap.reason, seconds=seconds, **self._figures())
        self._show(f"{name} is loaded ({seconds:.1f} s).")

    def _unload(self, swap: Swap, reason: str, now: float, *, sleeps: bool = False) -> None:
        swap.began, swap.reason, swap.sleeps = now, reason, sleeps
        drain = msgspec.structs.replace(self._drain, sleeps=sleeps)
        self.starting.discard(swap.model.name)
        for engine in swap.engines:
            engine.wanted, engine.restart_at, engine.drained = False, None, False
            engine.unloads += 1
            if engine.pid is None:
                self._put_away(engine)
                continue
            # An engine that loads reads no messages, but SIGTERM ends it at once.
            if not (engine.ready and engine.peer and self._send(engine.peer, drain)):
                engine.ending_since = now
                engine.terminate()
            self._enter(engine, "draining", f"it finishes its requests and is unloaded: {reason}")
        if swap.status == "unloaded":
            self._on_unloaded(swap, now)

    def on_asleep(self, engine: EngineChild, now: float) -> None:
        """Take note that an engine sleeps, which was asked to when it was unloaded."""
        if engine.wanted or engine.asleep:
            return
        engine.asleep, engine.ready = True, False
        self._enter(engine, "unloaded", _ASLEEP)
        swap = self._swaps[engine.spec.model]
        if swap.status == "unloaded":
            self._on_unloaded(swap, now)

    def on_death(self, engine: EngineChild, now: float) -> bool:
        """Whether an engine that has died was to be unloaded, which it is now."""
        slept, engine.asleep = engine.asleep, False
        if engine.wanted:
            return False
        self._put_away(engine)
        swap = self._swaps[engine.spec.model]
        if swap.status == "unloaded" and not slept:
            self._on_unloaded(swap, now)
        return True

    def _on_unloaded(self, swap: Swap, now: float) -> None:
        swap.sleeps = False
        log.info(
            "model unloaded",
            model=swap.model.name,
            reason=swap.reason,
            sleeps=swap.asleep,
            seconds=round(now - swap.began, 2),
            loaded_s=round(swap.began - swap.ready_at, 2) if swap.told_ready else 0,
            **self._figures(),
        )

    def give_up(self, model: str, cause: str, now: float, retry_s: float) -> bool:
        """Whether V-Gate goes on without a model that can't be kept running."""
        swap = self._swaps[model]
        if model in self.starting and swap.model.load != "on_demand":
            return False
        swap.failure, swap.failed_until = cause, now + retry_s
        self._policy.failed(model, swap.failed_until)
        for engine in swap.engines:
            engine.put_away()
        detail = f"it can't be loaded: {cause}; it may be tried again {retry_s:g} s later"
        self._enter_all(swap, "failed", detail)
        log.error("a model can't be loaded", model=model, cause=cause, retry_in_s=retry_s)
        self._show(f"{model} can't be loaded: {cause}. V-Gate goes on without it.")
        return True

    def order(self, order: ModelOrder, now: float) -> str:
        """Load or unload a model; return why that can't be, or ""."""
        swap = self._swaps.get(order.model)
        if swap is None:
            return f"there is no model {order.model}; there are {', '.join(self._swaps)}"
        name, status = order.model, swap.status
        if order.action == "load":
            if status == "ready":
                return f"{name} is loaded already"
            if swap.failure:
                swap.failed_until = now
            self._policy.order_load(name, now)
        elif status == "unloaded" and swap.asleep:
            self._policy.put_away(name)
            self._end_sleep(swap, "an operator's order", now)
        elif status == "unloaded":
            return f"{name} is not loaded"
        elif status == "unloading":
            return f"{name} is being unloaded already"
        elif swap.model.load == "pinned" and not order.force:
            return f"{name} is pinned: `--force` (`force: true`) unloads it all the same"
        else:
            self._policy.put_away(name)
            self._unload(swap, "an operator's order", now)
        log.info("an operator's order", model=name, action=order.action)
        return ""

    def _queue(self, swap: Swap, ahead: int, ending: list[str]) -> None:
        """Tell that a model waits for room, if that is news."""
        detail = "it waits for room in the memory"
        if ending:
            detail += f", which {' and '.join(ending)} will leave"
        state = swap.engines[0].state
        if (state.state, state.ahead, state.detail) == ("queued", ahead, detail):
            return
        if ending and not ahead and state.detail != detail:
            self._show(f"Loading {swap.model.name}: unloads {', '.join(ending)} first.")
        for engine in swap.engines:
            self._tell(engine.enter("queued", detail, ahead))

    def _put_away(self, engine: EngineChild) -> None:
        engine.put_away()
        self._enter(engine, "unloaded", UNLOADED)

    def _enter_all(self, swap: Swap, state: StateName, detail: str) -> None:
        for engine in swap.engines:
            self._enter(engine, state, detail)

    def _enter(self, engine: EngineChild, state: StateName, detail: str) -> None:
        self._tell(engine.enter(state, detail))

    def _figures(self) -> dict[str, Any]:
        """Return what is in memory now, for the log."""
        held = [name for name, swap in self._swaps.items() if swap.status != "unloaded"]
        taken = max((self._room.taken(held, device) for device in self._room.totals), default=0)
        return {"in_memory": held, "memory_mib": taken // MIB}
