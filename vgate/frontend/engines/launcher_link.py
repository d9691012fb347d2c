"""A frontend's control link: heartbeats to the launcher; engine states and drains from it."""

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from vgate.config import Runtime
from vgate.log import Log
from vgate.wire.codec import WireError, decode_launcher_to_frontend, encode
from vgate.wire.control import EngineState, FrontendBeat, HandOver
from vgate.wire.sockets import AsyncDealer

_BEAT_S = 0.25
# A model with several engines has the first of these states that one of them is in.
_BEST_FIRST = ("ready", "starting", "restarting")

log = Log("vgate.frontend")


class LauncherLink:
    """This frontend's link to the launcher. Call `beat` once to start the heartbeats.

    Args:
        loop: The event loop.
        runtime: The instance's settings.
        worker: This frontend's number.
        heartbeat: Returns this frontend's state; its argument is `draining`.
        on_drain: Called once when the server stops, with the seconds left to running requests.
        on_hand_over: Called once when another frontend has taken this one's place.

    Attributes:
        draining: Whether the server is stopping.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        runtime: Runtime,
        worker: int,
        *,
        heartbeat: Callable[[bool], FrontendBeat],
        on_drain: Callable[[float], None],
        on_hand_over: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._heartbeat = heartbeat
        self._on_drain = on_drain
        self._on_hand_over = on_hand_over
        self.draining = False
        # The launcher reports nothing about an engine that it doesn't supervise.
        self._engines = {
            number: EngineState("ready", "not supervised", time.time(), number)
            for number, spec in enumerate(runtime.engines)
            if not spec.supervised
        }
        self._dealer = AsyncDealer(
            loop,
            runtime.endpoint("control"),
            f"frontend-{worker}",
            on_batch=self._on_batch,
            on_lost=self._on_lost,
        )
        self._beating: asyncio.TimerHandle | None = None

    def engine_state(self, numbers: Iterable[int]) -> EngineState | None:
        """Return the best state of these engines and the sum of their restarts.

        None until the launcher has reported one.
        """
        states = [self._engines[number] for number in numbers if number in self._engines]
        if not states:
            return None
        best = min(states, key=lambda state: _BEST_FIRST.index(state.state))
        return msgspec.structs.replace(best, restarts=sum(state.restarts for state in states))

    def beat(self) -> None:
        """Send a heartbeat now and regularly from now on. Call it when a state changes."""
        if self._beating is not None:
            self._beating.cancel()
        self._beating = self._loop.call_later(_BEAT_S, self.beat)
        self._dealer.send(encode(self._heartbeat(self.draining)))

    def close(self) -> None:
        """Stop the heartbeats and disconnect."""
        if self._beating is not None:
            self._beating.cancel()
        self._dealer.close()

    def _on_batch(self, batch: list[bytes]) -> None:
        for payload in batch:
            try:
                message = decode_launcher_to_frontend(payload)
            except WireError as error:
                log.error("dropped a malformed message from the launcher", error=error)
                continue
            if isinstance(message, EngineState):
                self._engines[message.engine] = message
                continue
            if isinstance(message, HandOver):
                self._on_hand_over()
                continue
            if not self.draining:
                self.draining = True
                self._on_drain(message.timeout_s)
            self.beat()

    def _on_lost(self) -> None:
        # The kernel ends this process too (see vgate.child_process).
        log.error("lost the launcher")
