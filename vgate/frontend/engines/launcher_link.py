"""A frontend's link to the launcher: it reports that it lives, and hears of engine and drain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from vgate.log import Log
from vgate.wire.codec import WireError, decode_from_launcher, encode
from vgate.wire.control import Drain, EngineState, FrontendBeat
from vgate.wire.sockets import AsyncDealer

_BEAT_S = 0.25

log = Log("vgate.frontend")


class LauncherLink:
    """See the module.

    Args:
        loop: The event loop.
        endpoint: Where the launcher listens.
        worker: This frontend's number.
        ready: Says whether a request would be served now.
        in_flight: Says how many requests are being answered.
        problem: Says why the frontend will never be ready, if that is so.
        on_drain: Called once with the seconds left, when the launcher wants an end.

    Attributes:
        draining: Whether the server is going down.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        worker: int,
        *,
        ready: Callable[[], bool],
        in_flight: Callable[[], int],
        problem: Callable[[], str | None],
        on_drain: Callable[[float], None],
    ) -> None:
        self._loop = loop
        self._worker = worker
        self._pid = os.getpid()
        self._ready = ready
        self._in_flight = in_flight
        self._problem = problem
        self._on_drain = on_drain
        self.draining = False
        self._engines: dict[int, EngineState] = {}
        self._dealer = AsyncDealer(
            loop, endpoint, f"frontend-{worker}", on_batch=self._on_batch, on_lost=self._on_lost
        )
        self._beating: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to report."""
        self.beat()

    def engine(self, number: int) -> EngineState | None:
        """Return where an engine is; None until the launcher has told."""
        return self._engines.get(number)

    def beat(self) -> None:
        """Tell the launcher how we are, and again after a while. Called early on a change."""
        if self._beating is not None:
            self._beating.cancel()
        self._beating = self._loop.call_later(_BEAT_S, self.beat)
        beat = FrontendBeat(
            self._worker,
            self._pid,
            self._ready(),
            self._in_flight(),
            self.draining,
            self._problem(),
        )
        self._dealer.send(encode(beat))

    def close(self) -> None:
        """Close the link."""
        if self._beating is not None:
            self._beating.cancel()
        self._dealer.close()

    def _on_batch(self, batch: list[bytes]) -> None:
        for payload in batch:
            try:
                message = decode_from_launcher(payload)
            except WireError as error:
                log.error("dropped a malformed message from the launcher", error=error)
                continue
            match message:
                case EngineState():
                    self._engines[message.engine] = message
                case Drain():
                    if not self.draining:
                        self.draining = True
                        self._on_drain(message.timeout_s)
                    self.beat()

    def _on_lost(self) -> None:
        # The kernel ends us with the launcher (see vgate.parent_death); until then serve on.
        log.error("lost the launcher")
