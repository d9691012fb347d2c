"""The launcher's loop: starts engines and frontends, keeps them running, and stops them.

Its children send messages over the control socket, and waitpid reports their deaths. The loop never
blocks for longer than a tick.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType

from vgate.config import Config, Runtime
from vgate.launcher.child import Child, EngineChild, JudgesClock
from vgate.launcher.console import Console
from vgate.launcher.frontends import Frontends
from vgate.launcher.listeners import Listeners
from vgate.launcher.output import Output
from vgate.launcher.reload.reloads import Reloads
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_launcher, encode
from vgate.wire.control import (
    Drain,
    EngineBeat,
    EngineFailed,
    EnginePhase,
    EngineReady,
    FrontendBeat,
    LauncherToFrontend,
    Reload,
    Reloaded,
    ToLauncher,
)
from vgate.wire.exchange import Exchange
from vgate.wire.sockets import Router

_TICK_S = 0.1
_TERM_GRACE_S = 5.0
# A frontend sends four heartbeats a second.
_FRONTEND_HANG_S = 30.0
# After the drain's limit, frontends still send their last errors and engines drop the requests.
_DRAIN_SLACK_S = 1.0

log = Log("vgate.launcher")


class GaveUpError(Exception):
    """A process died too often or can't run at all; the message is the cause."""


class Supervisor:
    """Runs one instance, whose `runtime` is already written to the run directory.

    Its frontends serve on `listeners`, which it closes in the end. What its processes write goes to
    `output`, or to this process's streams if that is None.
    """

    def __init__(
        self,
        runtime: Runtime,
        console: Console,
        listeners: Listeners,
        output: Output | None = None,
    ) -> None:
        self._console = console
        self._engines = [
            EngineChild(runtime, number, output)
            for number, spec in enumerate(runtime.engines)
            if spec.supervised
        ]
        self._listeners = listeners
        self._frontends = Frontends(runtime, listeners.descriptors, self._send, output)
        self._reloads = Reloads(runtime, self._frontends, self._send)
        self._router = Router(runtime.endpoint("control"))
        self._exchange = Exchange(runtime.endpoint("publish"), runtime.endpoint("subscribe"))
        # When heartbeats came, and when processes started, died or ended. Deadlines that clients
        # know of are in real time.
        self._clock = JudgesClock()
        self._frontend_peers: set[bytes] = set()
        self._drained: set[int] = set()
        self._drain_deadline: float | None = None
        self._announced = False
        self._stop_signals = 0
        self._hung_up = False

    @property
    def _children(self) -> list[Child]:
        """Those that are started again when they die."""
        return [*self._engines, *self._frontends.serving]

    @property
    def _config(self) -> Config:
        return self._reloads.runtime.config

    def run(self) -> None:
        """Serve until a signal comes.

        Raises:
            GaveUpError: A process can't be kept running.
        """

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop_signals += 1

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        self._handle_hang_ups()
        self._console.starting()
        try:
            while not self._stop_signals:
                self._supervise()
                self._console.tick()
                self._router.wait(_TICK_S)
            self._drain()
        finally:
            self._stop_all()
            self.close()

    def _handle_hang_ups(self) -> None:
        """Reload on SIGHUP, and stop if the terminal that it was started from is gone."""
        # As by nohup: then it stays, whatever the terminal does.
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        had_terminal = _has_terminal() and not ignored

        def hang_up(_signal: int, _frame: FrameType | None) -> None:
            if had_terminal and not _has_terminal():
                self._stop_signals += 1
            else:
                self._hung_up = True

        signal.signal(signal.SIGHUP, hang_up)

    def close(self) -> None:
        """Close the sockets; `run` does so at its end."""
        self._router.close()
        self._exchange.close()

    def _supervise(self) -> None:
        # Heartbeats that have arrived are heard before anyone is judged.
        self._receive()
        now = self._clock()
        if self._hung_up:
            self._hung_up = False
            self._reloads.ask()
        for child in self._children:
            if (cause := child.died(now)) is not None:
                self._on_death(child, cause, now)
            # During a hand-over, the settings may be those of the next frontends already.
            waits = self._frontends.handing_over and child in self._frontends.serving
            if child.restart_at is not None and now >= child.restart_at and not waits:
                child.start(now)
                log.debug("process started", name=child.name, child_pid=child.pid)
        self._kill_hung(now)
        self._frontends.advance(now)
        self._reloads.advance()
        if not self._announced and all(child.ready for child in self._children):
            self._announced = True
            self._console.serving()
            models = [engine.state.detail for engine in self._engines]
            log.info("serving", url=self._console.url, models=models)

    def _on_death(self, child: Child, cause: str, now: float) -> None:
        if child.restart_at is None:
            ended = "can't start" if child.permanent else f"died {child.restarts + 1} times"
            raise GaveUpError(f"the {child.name} {ended}: {cause}")
        delay_s = child.restart_at - now
        log.error("process died", name=child.name, cause=cause, restart_in_s=round(delay_s, 2))
        if isinstance(child, EngineChild):
            self._broadcast(child.enter("restarting", f"it died ({cause})"))

    def _kill_hung(self, now: float) -> None:
        limits = self._config.supervision
        for engine in self._engines:
            if engine.ending_since is not None:
                if now - engine.ending_since > _TERM_GRACE_S:
                    # It has reported its failure, and hangs while it releases the device.
                    engine.kill()
            elif not engine.ready and now - engine.started_at > limits.load_timeout_s:
                engine.kill(f"did not load within {limits.load_timeout_s:.0f} s")
            elif engine.ready:
                hang_s = min(limits.hang_timeout_s, engine.patience_s or limits.hang_timeout_s)
                if now - engine.last_beat > hang_s:
                    engine.kill(f"hung: no step finished for {hang_s:.0f} s")
        hang_s = min(_FRONTEND_HANG_S, limits.hang_timeout_s)
        for child in self._frontends:
            # Before its first heartbeat it imports, which a slow disk may draw out.
            limit_s = hang_s if child.last_beat > child.started_at else _FRONTEND_HANG_S
            if now - child.last_beat > limit_s:
                child.kill(f"hung: silent for {limit_s:.0f} s")

    def _receive(self) -> None:
        while (received := self._router.receive()) is not None:
            peer, payload = received
            try:
                message = decode_to_launcher(payload)
            except WireError as error:
                log.error("dropped a malformed control message", error=error)
                continue
            if isinstance(message, FrontendBeat):
                self._on_frontend_beat(peer, message)
            elif isinstance(message, Reload):
                self._reloads.ask(peer)
            else:
                for engine in self._engines:
                    if engine.pid == message.pid:
                        engine.peer = peer
                        self._on_engine(engine, message)

    def _on_engine(self, engine: EngineChild, message: ToLauncher) -> None:
        engine.last_beat = self._clock()
        match message:
            case EngineBeat(patience_s=patience_s):
                engine.patience_s = patience_s
            case EnginePhase(phase=phase):
                self._console.phase(engine.prefix + phase)
                again = engine.restarts > 0
                self._broadcast(engine.enter("restarting" if again else "starting", phase))
            case EngineReady(summary=summary):
                engine.ready = True
                self._broadcast(engine.enter("ready", summary))
                again = self._announced
                self._console.show(f"The {engine.name} serves again." if again else f"  {summary}")
            case EngineFailed(reason=reason, permanent=permanent):
                engine.cause, engine.permanent = reason, permanent
                engine.ready = False
                engine.ending_since = self._clock()

    def _on_frontend_beat(self, peer: bytes, beat: FrontendBeat) -> None:
        if peer not in self._frontend_peers:
            self._frontend_peers.add(peer)
            for engine in self._engines:
                self._send(peer, engine.state)
            if self._drain_deadline is not None:
                # It was still starting when the drain was broadcast.
                self._send(peer, Drain(max(0.0, self._drain_deadline - time.monotonic())))
        child = self._frontends.hear(peer, beat, self._clock())
        if beat.problem is not None and not self._announced and child in self._frontends.serving:
            raise GaveUpError(beat.problem)
        if beat.draining and beat.in_flight == 0:
            self._drained.add(beat.pid)

    def _broadcast(self, message: LauncherToFrontend) -> None:
        for peer in list(self._frontend_peers):
            self._send(peer, message)

    def _send(self, peer: bytes, message: LauncherToFrontend | Reloaded) -> None:
        if not self._router.send(peer, encode(message)):
            self._frontend_peers.discard(peer)

    def _drain(self) -> None:
        """Wait until the frontends have finished their requests, for a limited time."""
        limit_s = self._config.server.drain_timeout_s
        self._reloads.refuse("V-Gate is stopping")
        self._console.show(f"Stopping: running requests have {limit_s:.0f} s to finish.")
        log.info("draining", timeout_s=limit_s)
        self._drain_deadline = time.monotonic() + limit_s
        self._broadcast(Drain(limit_s))
        deadline = self._drain_deadline + _DRAIN_SLACK_S
        while time.monotonic() < deadline and self._stop_signals < 2:
            self._receive()
            alive = [f.pid for f in self._frontends if f.pid and f.died(self._clock()) is None]
            if all(pid in self._drained for pid in alive):
                return
            self._router.wait(_TICK_S)

    def _stop_all(self) -> None:
        """End the frontends, then the engines that they depend on."""
        self._listeners.close()
        frontends = list(self._frontends)
        for child in frontends:
            child.terminate()
        _wait_for(frontends)
        drain = encode(Drain(_DRAIN_SLACK_S))
        for engine in self._engines:
            # An engine that loads reads no messages, but SIGTERM ends it at once.
            if not (engine.ready and engine.peer and self._router.send(engine.peer, drain)):
                engine.terminate()
        _wait_for(self._engines)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False


def _wait_for(children: Sequence[Child]) -> None:
    """Wait until processes have ended, and kill those that don't."""
    deadline = time.monotonic() + _TERM_GRACE_S
    for child in children:
        if not child.wait(max(0.0, deadline - time.monotonic())):
            log.warning("process did not end in time and is killed", name=child.name)
            child.kill()
            child.wait(_TERM_GRACE_S)
