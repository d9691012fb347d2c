"""The launcher's loop: starts engines and frontends, keeps them running, and stops them.

Its children send messages over the control socket, and waitpid reports their deaths. The loop never
blocks for longer than a tick.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType

from vgate.commands.machine.systemd import notify
from vgate.config import Config, Runtime
from vgate.launcher import listeners
from vgate.launcher.child import Child, GaveUpError, JudgesClock
from vgate.launcher.engines.fleet import Fleet
from vgate.launcher.frontends import Frontends
from vgate.launcher.hosts.probe import probed
from vgate.launcher.output import Output
from vgate.launcher.reload.reloads import Reloads
from vgate.launcher.terminal.console import Console
from vgate.log import Log
from vgate.usage.folding import Folding
from vgate.wire.codec import WireError, decode_to_launcher, encode
from vgate.wire.control import (
    Drain,
    EngineOrder,
    EngineOrdered,
    FrontendBeat,
    LauncherToEngine,
    LauncherToFrontend,
    LedgerState,
    ModelDemand,
    ModelOrder,
    Probe,
    Probed,
    Reload,
    Reloaded,
)
from vgate.wire.exchange import Exchange
from vgate.wire.sockets import Router

_TICK_S = 0.1
_TERM_GRACE_S = 5.0
# After so many signals whoever sends them does not want to wait.
_HURRY = 2
_HURRIED_GRACE_S = 1.0
# A frontend sends four heartbeats a second.
_FRONTEND_HANG_S = 30.0
# After the drain's limit, frontends still send their last errors and engines drop the requests.
_DRAIN_SLACK_S = 1.0

log = Log("vgate.launcher")


class Supervisor:
    """Runs one instance, whose `runtime` is already written to the run directory.

    Its frontends serve on `sockets`, which it closes in the end. What its processes write goes to
    `output`, or to this process's streams if that is None.
    """

    def __init__(
        self,
        runtime: Runtime,
        console: Console,
        sockets: Sequence[socket.socket],
        output: Output | None = None,
    ) -> None:
        self._console = console
        self._frontend_peers: set[bytes] = set()
        self._engines = Fleet(runtime, console, self._send_to_engine, self._broadcast, output)
        # Frontends of other hosts still have requests when these engines are to end.
        alone = runtime.role == "engine"
        self._engines_drain_s = runtime.config.server.drain_timeout_s if alone else 0.0
        self._sockets = sockets
        descriptors = [each.fileno() for each in sockets]
        self._frontends = Frontends(runtime, descriptors, self._send, output)
        self._reloads = Reloads(runtime, self._frontends, self._send)
        self._router = Router(runtime.endpoint("control"))
        self._exchange = Exchange(runtime.endpoint("publish"), runtime.endpoint("subscribe"))
        # When heartbeats came, and when processes started, died or ended. Deadlines that clients
        # know of are in real time.
        self._clock = JudgesClock()
        self._drained: set[int] = set()
        self._drain_deadline: float | None = None
        self._ledger = Folding(runtime.config.server.state_path)
        self._ledger_told = LedgerState("")
        self._stop_signals = 0
        self._hung_up = False

    @property
    def _announced(self) -> bool:
        return self._engines.announced

    @property
    def _config(self) -> Config:
        return self._reloads.runtime.config

    def run(self) -> None:
        """Serve until a signal comes; raise `GaveUpError` if a process can't be kept running."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop_signals += 1

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        self._handle_hang_ups()
        self._console.starting()
        self._ledger.start()
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
        """On SIGHUP, stop if this process belongs to a terminal, and reload if it is a service."""
        # Ignored as by nohup, it stays whatever the terminal does.
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        of_terminal = _has_terminal() and not ignored

        def hang_up(_signal: int, _frame: FrameType | None) -> None:
            if of_terminal:
                # The shell and the kernel may each send one, which is no request to hurry.
                self._stop_signals = max(1, self._stop_signals)
            else:
                self._hung_up = True

        signal.signal(signal.SIGHUP, hang_up)

    def close(self) -> None:
        """Close the sockets; `run` does so at its end."""
        self._router.close()
        self._exchange.close()
        self._ledger.close()

    def _supervise(self) -> None:
        # Heartbeats that have arrived are heard before anyone is judged.
        self._receive()
        now = self._clock()
        if self._hung_up:
            self._hung_up = False
            self._reloads.ask()
        if self._engines.swaps is not None:
            self._engines.swaps.wanted.see(self._frontends.heard)
        self._engines.advance(now, self._config.supervision)
        for child in self._frontends.serving:
            if (cause := child.died(now)) is not None:
                self._on_death(child, cause, now)
            # During a hand-over, the settings may be those of the next frontends already.
            waits = self._frontends.handing_over
            if child.restart_at is not None and now >= child.restart_at and not waits:
                child.start(now)
                log.debug("process started", name=child.name, child_pid=child.pid)
        self._kill_hung(now)
        self._frontends.advance(now)
        self._reloads.advance()
        if self._ledger.problem != self._ledger_told.problem:
            self._ledger_told = LedgerState(self._ledger.problem)
            self._broadcast(self._ledger_told)
        if self._announced or not self._engines.serves:
            return
        if all(child.ready for child in self._frontends.serving):
            self._engines.announced = True
            self._console.serving()
            notify("READY=1")
            models = [engine.summary for engine in self._engines if engine.ready]
            log.info("serving", url=self._console.url, models=models)

    def _on_death(self, child: Child, cause: str, now: float) -> None:
        if child.restart_at is None:
            ended = "can't start" if child.permanent else f"died {child.restarts + 1} times"
            raise GaveUpError(f"the {child.name} {ended}: {cause}")
        delay_s = child.restart_at - now
        log.error("process died", name=child.name, cause=cause, restart_in_s=round(delay_s, 2))

    def _kill_hung(self, now: float) -> None:
        limits = self._config.supervision
        self._engines.kill_hung(now, limits)
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
            elif isinstance(message, EngineOrder | ModelOrder):
                problem = self._engines.order(message, self._clock())
                self._send(peer, EngineOrdered(message.id, problem))
            elif isinstance(message, ModelDemand):
                if self._engines.swaps is not None:
                    self._engines.swaps.wanted.hear(message, self._clock())
            elif isinstance(message, Probe):
                stopping = self._drain_deadline is not None
                self._send(peer, probed(self._engines, stopping=stopping))
            else:
                self._engines.hear(peer, message, self._clock())

    def _on_frontend_beat(self, peer: bytes, beat: FrontendBeat) -> None:
        if peer not in self._frontend_peers:
            self._frontend_peers.add(peer)
            for engine in self._engines:
                self._send(peer, engine.state)
            self._send(peer, self._ledger_told)
            if self._drain_deadline is not None:
                # It was still starting when the drain was broadcast.
                self._send(peer, self._drain_order(self._drain_deadline))
        child = self._frontends.hear(peer, beat, self._clock())
        if beat.problem is not None and not self._announced and child in self._frontends.serving:
            raise GaveUpError(beat.problem)
        if beat.draining and beat.in_flight == 0:
            self._drained.add(beat.pid)

    def _broadcast(self, message: LauncherToFrontend) -> None:
        for peer in list(self._frontend_peers):
            self._send(peer, message)

    def _send_to_engine(self, peer: bytes, message: LauncherToEngine) -> bool:
        return self._router.send(peer, encode(message))

    def _send(self, peer: bytes, message: LauncherToFrontend | Reloaded | Probed) -> None:
        if not self._router.send(peer, encode(message)):
            self._frontend_peers.discard(peer)

    def _drain(self) -> None:
        """Wait until the frontends have finished their requests, for a limited time."""
        limit_s = self._config.server.drain_timeout_s
        delay_s = self._config.server.drain_delay_s if self._announced else 0.0
        notify("STOPPING=1")
        self._reloads.refuse("V-Gate is stopping")
        self._console.end()
        self._console.show(
            f"\nStopping: running requests have {limit_s:.0f} s to finish. Ctrl-C again ends them."
            if self._announced
            else "\nStopping while the model loads. Ctrl-C again ends it at once."
        )
        log.info("draining", timeout_s=limit_s, delay_s=delay_s)
        self._drain_deadline = time.monotonic() + delay_s + limit_s
        self._broadcast(self._drain_order(self._drain_deadline))
        deadline = self._drain_deadline + _DRAIN_SLACK_S
        while time.monotonic() < deadline and self._stop_signals < _HURRY:
            try:
                # With a delay requests come in for a while, so what dies is replaced.
                self._supervise() if delay_s else self._receive()
            except GaveUpError as error:
                log.error("no more is replaced: the others finish their requests", reason=error)
                delay_s = 0.0
            alive = [f.pid for f in self._frontends if f.pid and f.died(self._clock()) is None]
            if all(pid in self._drained for pid in alive):
                return
            self._router.wait(_TICK_S)

    def _drain_order(self, deadline: float) -> Drain:
        left_s = max(0.0, deadline - time.monotonic())
        timeout_s = min(left_s, self._config.server.drain_timeout_s)
        return Drain(timeout_s, left_s - timeout_s)

    def _stop_all(self) -> None:
        """End the frontends, then the engines that they depend on."""
        self._console.end()
        listeners.close(self._sockets)
        frontends = list(self._frontends)
        for child in frontends:
            child.terminate()
        self._wait_for(frontends)
        drain = Drain(self._engines_drain_s or _DRAIN_SLACK_S)
        for engine in self._engines:
            # An engine that loads reads no messages, but SIGTERM ends it at once.
            if not (engine.ready and engine.peer and self._send_to_engine(engine.peer, drain)):
                engine.terminate()
        self._wait_for(list(self._engines), self._engines_drain_s)

    def _wait_for(self, children: Sequence[Child], drain_s: float = 0.0) -> None:
        """Wait until processes have ended, and kill those that don't."""
        began = time.monotonic()
        for child in children:
            while not (ended := child.wait(_TICK_S)):
                with contextlib.suppress(GaveUpError):  # they are being stopped
                    self._receive()
                hurried = self._stop_signals >= _HURRY
                grace_s = _HURRIED_GRACE_S if hurried else drain_s + _TERM_GRACE_S
                if time.monotonic() - began > grace_s:
                    break
            if not ended:
                log.warning("process did not end in time and is killed", name=child.name)
                child.kill()
                child.wait(_TERM_GRACE_S)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
        return True
    return False
