"""The engines that the launcher supervises: their starts, deaths and hangs, and who is drained.

A replica that can't be kept running is given up alone, and tried again later. The first one of a
model starts alone, so that a model is downloaded and compiled once.
"""

from collections.abc import Callable, Iterator

from vgate.config import Runtime
from vgate.config.roles import FIRST_FOUND
from vgate.config.schema import Supervision
from vgate.launcher.child import EngineChild, GaveUpError
from vgate.launcher.engines.gpus import sharing
from vgate.launcher.output import Output
from vgate.launcher.residency.memory import room_of
from vgate.launcher.residency.swaps import Swaps
from vgate.launcher.terminal.console import Console
from vgate.log import Log
from vgate.wire.control import (
    Cordon,
    Drain,
    EngineAsleep,
    EngineBeat,
    EngineFailed,
    EngineOrder,
    EnginePhase,
    EngineReady,
    EngineState,
    FromEngine,
    LauncherToEngine,
    ModelOrder,
    StateName,
)

# It has reported its failure, and hangs while it releases the device.
_END_S = 5.0
# One that loads and says nothing for so long keeps the others waiting no longer.
_ALONE_S = 300.0

# A step that the engine expects may take this many times as long, beside other work.
_SLOWER = 3.0

log = Log("vgate.launcher")


class Fleet:
    """All supervised engines of an instance. Times are those of a `JudgesClock`.

    `send` sends a message to an engine's control link and returns whether it could. `tell` tells
    the frontends the state of an engine.

    Attributes:
        announced: Whether the instance serves, so that each change is news.
        swaps: Loads and unloads models; None if all of them stay loaded.
    """

    def __init__(
        self,
        runtime: Runtime,
        console: Console,
        send: Callable[[bytes, LauncherToEngine], bool],
        tell: Callable[[EngineState], None],
        output: Output | None = None,
    ) -> None:
        self.announced = False
        self._runtime = runtime
        self._console = console
        self._send, self._tell = send, tell
        self._engines = [
            EngineChild(runtime, number, output)
            for number, spec in enumerate(runtime.engines)
            if spec.supervised
        ]
        # Those without GPUs of their own take the same ones.
        self._sharing = sharing(runtime)
        self._remote = {spec.model for spec in runtime.engines if not spec.supervised}
        # Models of which a replica has been ready, or has died.
        self._tried: set[str] = set()
        room = room_of(runtime) if runtime.config.unloads_models and self._engines else None
        self.swaps: Swaps | None = None
        if room is not None:
            self.swaps = Swaps(runtime, room, self._engines, send, tell, self._show)

    def __iter__(self) -> Iterator[EngineChild]:
        """Return all of them."""
        return iter(self._engines)

    @property
    def serves(self) -> bool:
        """Whether an engine of each model serves, or of those that are loaded at the start."""
        if self.swaps is not None:
            return not self.swaps.starting
        ready = {engine.spec.model for engine in self._engines if engine.ready}
        return {spec.model for spec in self._runtime.engines} <= ready | self._remote

    def advance(self, now: float, limits: Supervision) -> None:
        """Go on with what has begun. Call it several times a second.

        Raises:
            GaveUpError: No engine of a model is left.
        """
        for engine in self._engines:
            if (cause := engine.died(now)) is not None:
                self._on_death(engine, cause, now, limits)
        if self.swaps is not None:
            self.swaps.advance(now)
        for engine in self._engines:
            if engine.restart_at is not None and now >= engine.restart_at:
                if self._must_wait(engine, now):
                    continue
                if engine.asleep and self.swaps is not None:
                    self.swaps.wake(engine, now)
                    continue
                engine.start(now)
                log.debug("process started", name=engine.name, child_pid=engine.pid)

    def _must_wait(self, engine: EngineChild, now: float) -> bool:
        """Whether an engine that loads should be the only one to do so, on its GPUs or at all.

        vLLM takes what others take of a GPU while it loads for its own.
        """
        loading = [
            other
            for other in self._engines
            if other.is_loading and now - other.last_beat < _ALONE_S
        ]
        model = engine.spec.model
        return any(
            not engine.devices.isdisjoint(other.devices)
            or ({engine.number, other.number} <= self._sharing and not other.downloads)
            or (other.spec.model == model and model not in self._tried)
            for other in loading
        )

    def _on_death(self, engine: EngineChild, cause: str, now: float, limits: Supervision) -> None:
        self._console.drop(engine.number)
        self._tried.add(engine.spec.model)
        if self.swaps is not None and self.swaps.on_death(engine, now):
            return
        if engine.ended_well:
            log.info("an engine has drained and ended", name=engine.name)
            cause = "it was drained"
        elif engine.drained:
            log.error("a drained engine died", name=engine.name, cause=cause)
        elif engine.restart_at is None or engine.given_up:
            self._give_up(engine, cause, now, limits)
            return
        else:
            delay_s = round(engine.restart_at - now, 2)
            log.error("process died", name=engine.name, cause=cause, restart_in_s=delay_s)
            cause = f"it died ({cause})"
        if engine.drained:
            engine.restart_at = None
            detail = f"drained, and not running: {cause}; `vgate engines resume {engine.number}`"
            self._enter(engine, "draining", detail)
        else:
            self._enter(engine, "restarting", cause)

    def _give_up(self, engine: EngineChild, cause: str, now: float, limits: Supervision) -> None:
        ended = "can't start" if engine.permanent else f"died {engine.restarts + 1} times"
        told, engine.given_up = engine.given_up, True
        model = engine.spec.model
        others = [other for other in self._engines if other.spec.model == model]
        if model not in self._remote and not any(other.is_left for other in others):
            if self.swaps is not None and self.swaps.give_up(
                model, cause, now, limits.retry_replica_s
            ):
                return
            raise GaveUpError(f"the {engine.name} {ended}: {cause}")
        engine.restart_at = now + limits.retry_replica_s
        log.error(
            "gave up a replica", name=engine.name, cause=cause, retry_in_s=limits.retry_replica_s
        )
        detail = f"it {ended}: {cause}; it is tried again every {limits.retry_replica_s:g} s"
        self._enter(engine, "failed", detail)
        if not told:
            self._show(f"The {engine.name} {ended}: {cause}. V-Gate goes on without it.")

    def kill_hung(self, now: float, limits: Supervision) -> None:
        """Kill those that are silent for too long."""
        for engine in self._engines:
            if engine.ending_since is not None:
                if now - engine.ending_since > _END_S:
                    engine.kill()
            elif engine.ready or engine.asleep:
                most_s = max(limits.hang_timeout_s, _SLOWER * engine.slowest_step_s)
                hang_s = min(most_s, engine.patience_s or most_s)
                if now - engine.last_beat > hang_s:
                    engine.kill(f"hung: no step finished for {hang_s:.0f} s")
            elif now - engine.started_at > limits.load_timeout_s:
                engine.kill(f"did not load within {limits.load_timeout_s:.0f} s")

    def hear(self, peer: bytes, message: FromEngine, now: float) -> None:
        """Take over what an engine says; nothing if it has died."""
        engine = next((each for each in self._engines if each.pid == message.pid), None)
        if engine is None:
            return
        engine.peer, engine.last_beat = peer, now
        match message:
            case EnginePhase() | EngineReady() if not engine.wanted:
                pass  # it is being unloaded
            case EngineBeat(patience_s=patience_s, draining=draining):
                engine.patience_s = patience_s
                if draining and engine.state.state == "ready":
                    self._enter(engine, "draining", "it finishes its requests, and ends then")
            case EnginePhase():
                self._on_phase(engine, message, now)
            case EngineAsleep() if self.swaps is not None:
                self.swaps.on_asleep(engine, now)
            case EngineReady():
                self._on_ready(engine, message)
            case EngineFailed(reason=reason, permanent=permanent):
                engine.cause, engine.permanent = reason, permanent
                if message.tells:
                    self._console.end()
                    self._console.show(f"The {engine.name} did not start: {reason}")
                engine.ready = False
                engine.ending_since = now

    def _on_ready(self, engine: EngineChild, message: EngineReady) -> None:
        again = engine.restarts > 0
        engine.ready, engine.summary, engine.given_up = True, message.summary, False
        engine.slowest_step_s = message.slowest_step_s
        self._tried.add(engine.spec.model)
        if engine.drained:
            self._cordon(engine)
        else:
            self._enter(engine, "ready", message.summary)
        self._console.engine_ready(engine.number, message)
        if again or self.swaps is None:
            self._show(f"The {engine.name} is serving{' again' if again else ''}.")

    def _on_phase(self, engine: EngineChild, message: EnginePhase, now: float) -> None:
        phase, done, total = message.phase, message.done_bytes, message.total_bytes
        self._console.phase(engine.number, phase, done, total)
        engine.downloads = total > 0
        if total:
            # A download takes as long as it takes, while it goes on.
            engine.started_at = now
            phase += f" ({100 * done // total} % of {total / 1e9:.1f} GB)"
        elif message.total_tokens:
            engine.started_at = now
            phase += f" ({message.done_tokens:,} of {message.total_tokens:,} tokens)"
        if not engine.drained:
            self._enter(engine, "restarting" if engine.restarts else "starting", phase)

    def order(self, order: EngineOrder | ModelOrder, now: float) -> str:
        """Carry out an operator's order; return why that can't be, or ""."""
        if isinstance(order, EngineOrder):
            return self._order_engine(order, now)
        if self.swaps is None:
            return "no model of this server is loaded on demand, so all of them stay loaded"
        return self.swaps.order(order, now)

    def _order_engine(self, order: EngineOrder, now: float) -> str:
        number = order.engine
        engine = next((each for each in self._engines if each.number == number), None)
        if engine is None:
            return self._no_such(number)
        if not engine.wanted:
            model = engine.spec.model
            return f"engine {number} is not loaded: `vgate models load {model}` loads its model"
        if order.action == "resume":
            self._resume(engine, now)
        elif not order.force and not self._others_serve(engine):
            return (
                f"engine {number} is the only one that serves {engine.spec.model}, so its "
                "requests would have to wait: `--force` (`force: true`) does it all the same"
            )
        elif order.action == "restart":
            if engine.state.state not in ("ready", "draining") or not engine.ready:
                return f"engine {number} does not run now: it is {engine.state.state}"
            self._restart(engine)
        else:
            engine.drained = True
            if engine.pid is None:
                engine.restart_at = None
            self._cordon(engine)
        log.info("an operator's order", engine=engine.name, action=order.action)
        return ""

    def _cordon(self, engine: EngineChild) -> None:
        """Have an engine take nothing new, if it runs."""
        if engine.ready and engine.peer is not None:
            self._send(engine.peer, Cordon(True))
        self._enter(engine, "draining", f"drained, until `vgate engines resume {engine.number}`")

    def _restart(self, engine: EngineChild) -> None:
        engine.drained = False
        if engine.peer is not None:
            # No request lasts longer.
            self._send(engine.peer, Drain(self._runtime.config.timeouts.request_s))
        self._enter(engine, "draining", "it finishes its requests, and starts again then")

    def _resume(self, engine: EngineChild, now: float) -> None:
        drained, engine.drained = engine.drained, False
        if engine.pid is None:
            engine.restart_at = now  # also one that was given up
        elif drained and engine.ready and engine.peer is not None:
            self._send(engine.peer, Cordon(False))
            self._enter(engine, "ready", engine.summary)
        elif drained:
            self._enter(engine, "starting", "starting")

    def _others_serve(self, engine: EngineChild) -> bool:
        """Whether another engine of the model takes requests, as far as is known here."""
        model = engine.spec.model
        return any(not spec.supervised for spec in self._runtime.engines_of(model).values()) or any(
            other.state.state == "ready" and other.spec.model == model
            for other in self._engines
            if other is not engine
        )

    def _no_such(self, number: int) -> str:
        count = len(self._runtime.engines)
        if number < count or number >= FIRST_FOUND:
            return f"engine {number} runs elsewhere: SIGTERM to its `vgate engine` there drains it"
        numbers = "only engine 0" if count == 1 else f"engines 0 to {count - 1}"
        return f"there is no engine {number}; there are {numbers}"

    def _enter(self, engine: EngineChild, state: StateName, detail: str) -> None:
        self._tell(engine.enter(state, detail))

    def _show(self, text: str) -> None:
        if self.announced:
            self._console.end()
            self._console.show(text)
