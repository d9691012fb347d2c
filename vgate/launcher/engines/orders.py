"""What an operator orders of an engine: to drain it, to restart it once drained, to resume it."""

from collections.abc import Callable, Sequence

from vgate.config import Runtime
from vgate.config.roles import FIRST_FOUND
from vgate.launcher.child import EngineChild
from vgate.log import Log
from vgate.wire.control import Cordon, Drain, EngineOrder, LauncherToEngine, StateName

log = Log("vgate.launcher")


class Orders:
    """Carries out orders. An engine that is drained stays loaded, and takes nothing new.

    `enter` gives an engine another state, and tells the frontends of it.
    """

    def __init__(
        self,
        runtime: Runtime,
        engines: Sequence[EngineChild],
        send: Callable[[bytes, LauncherToEngine], bool],
        enter: Callable[[EngineChild, StateName, str], None],
    ) -> None:
        self._runtime = runtime
        self._engines = engines
        self._send = send
        self._enter = enter

    def take(self, order: EngineOrder, now: float) -> str:
        """Carry out an order; return why that can't be, or ""."""
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
            self.cordon(engine)
        log.info("an operator's order", engine=engine.name, action=order.action)
        return ""

    def cordon(self, engine: EngineChild) -> None:
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
