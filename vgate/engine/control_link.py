"""An engine's link to the launcher: reports in one direction, requests in the other."""

import os
from collections.abc import Iterator

from vgate.config import Runtime
from vgate.log import Log
from vgate.wire.codec import WireError, decode_launcher_to_engine, encode
from vgate.wire.control import (
    EngineBeat,
    EngineFailed,
    EnginePhase,
    EngineReady,
    LauncherToEngine,
    ToLauncher,
)
from vgate.wire.sockets import Dealer, flush_dealers

log = Log("vgate.engine")


class ControlLink:
    """The link. ZeroMQ's thread sends and receives, so it works while the engine is in a step."""

    def __init__(self, runtime: Runtime) -> None:
        self._pid = os.getpid()
        self._dealer = Dealer(runtime.endpoint("control"), "engine")

    def phase(self, phase: str) -> None:
        """Report that a phase of the start began."""
        log.info("engine starting", phase=phase)
        self._send(EnginePhase(self._pid, phase))

    def ready(self, summary: str) -> None:
        """Report that the engine serves."""
        self._send(EngineReady(self._pid, summary))

    def beat(self, patience_s: float | None = None) -> None:
        """Report that the loop runs, and how long its next step may take, if that is known."""
        self._send(EngineBeat(self._pid, patience_s))

    def failed(self, reason: str, *, permanent: bool) -> None:
        """Report why the process ends."""
        self._send(EngineFailed(self._pid, reason, permanent))

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
