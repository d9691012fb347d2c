"""An engine's link to the launcher: reports in one direction, requests in the other."""

import os
from collections.abc import Iterator

from vgate.config import Runtime
from vgate.engine.loop import HEARTBEAT_S, EngineLoop
from vgate.log import Log
from vgate.wire.codec import WireError, decode_launcher_to_engine, encode
from vgate.wire.control import (
    Cordon,
    Drain,
    EngineAsleep,
    EngineBeat,
    EngineFailed,
    EnginePhase,
    EngineReady,
    LauncherToEngine,
    ToLauncher,
    Wake,
)
from vgate.wire.messages import ModelInfo
from vgate.wire.sockets import Dealer, flush_dealers

log = Log("vgate.engine")


class ControlLink:
    """The link. ZeroMQ's thread sends and receives, so it works while the engine is in a step."""

    def __init__(self, runtime: Runtime) -> None:
        self._pid = os.getpid()
        self._dealer = Dealer(runtime.endpoint("control"), "engine")

    def phase(self, phase: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Report that a phase of the start began, or how far its download is."""
        if not total_bytes:
            log.debug("engine starting", phase=phase)
        self._send(EnginePhase(self._pid, phase, done_bytes, total_bytes))

    def progress(self, phase: str, done_tokens: int, total_tokens: int) -> None:
        """Report how far a phase of the start is that runs the model."""
        if not done_tokens:
            log.debug("engine starting", phase=phase)
        self._send(EnginePhase(self._pid, phase, 0, 0, done_tokens, total_tokens))

    def ready(
        self,
        summary: str,
        model: ModelInfo | None = None,
        *,
        chat: bool = True,
        chosen: str = "",
        slowest_step_s: float = 0.0,
    ) -> None:
        """Report that the engine serves a model, and whether that takes conversations."""
        log.debug("engine ready")
        tokens = (model.max_model_len, model.kv_cache_tokens) if model else (0, 0)
        task = model.task if model else "generate"
        self._send(EngineReady(self._pid, summary, *tokens, chat, chosen, slowest_step_s, task))

    def beat(self, patience_s: float | None = None, *, draining: bool = False) -> None:
        """Report that the loop runs, how long its next step may take, and whether it drains."""
        self._send(EngineBeat(self._pid, patience_s, draining))

    def asleep(self) -> None:
        """Report that the engine sleeps."""
        self._send(EngineAsleep(self._pid))

    def failed(self, reason: str, *, permanent: bool, tells: bool = False) -> None:
        """Report why the process ends."""
        self._send(EngineFailed(self._pid, reason, permanent, tells))

    def wait(self, timeout_s: float) -> None:
        """Wait for a message from the launcher, for at most so long."""
        self._dealer.wait(timeout_s)

    def received(self) -> Iterator[LauncherToEngine]:
        """Yield the launcher's messages since the last call."""
        while self._dealer.readable and (payload := self._dealer.receive()) is not None:
            try:
                yield decode_launcher_to_engine(payload)
            except WireError as error:
                log.error("dropped a malformed message from the launcher", error=error)

    def close(self) -> None:
        """Send what is queued and close the link, so that the process may end."""
        self._dealer.close()
        flush_dealers()

    def _send(self, message: ToLauncher) -> None:
        self._dealer.send(encode(message))


class Control:
    """What the launcher and SIGTERM ask of the loop, which can wait for a heartbeat.

    Args:
        link: The link to the launcher.
        drain_timeout_s: How long requests may go on after SIGTERM.

    Attributes:
        sleeps: The engine is to sleep once it has drained, instead of ending.
    """

    def __init__(self, link: ControlLink, drain_timeout_s: float) -> None:
        self._link = link
        self._drain_timeout_s = drain_timeout_s
        self._launcher = os.getppid()
        self._signals = 0
        self.sleeps = False

    def beat(self, loop: EngineLoop) -> None:
        """Report that the loop runs, and do what was asked since the last heartbeat."""
        self._link.beat(loop.patience.seconds, draining=loop.draining)
        for message in self._link.received():
            match message:
                case Drain():
                    self.sleeps = message.sleeps
                    loop.drain(message.timeout_s)
                case Cordon():
                    loop.cordoned = message.on
        if self._signals and not loop.draining:
            loop.drain(self._drain_timeout_s)

    def rest(self) -> bool:
        """Report that the engine sleeps; return whether it is woken, or else is to end."""
        self._link.asleep()
        while not self._signals and os.getppid() == self._launcher:
            self._link.wait(HEARTBEAT_S)
            self._link.beat(draining=True)
            for message in self._link.received():
                match message:
                    case Wake():
                        self.sleeps = False
                        return True
                    case Drain():
                        return False
        return False

    def terminate(self, loop: EngineLoop) -> None:
        """Have the loop drain; a second time, or if the launcher has died, end it at once."""
        self._signals += 1
        self.sleeps = False
        if self._signals > 1 or os.getppid() != self._launcher:
            loop.stop()
