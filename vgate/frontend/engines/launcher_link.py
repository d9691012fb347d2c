"""A frontend's control link: heartbeats to the launcher; engine states and drains from it."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from vgate.config import Runtime
from vgate.log import Log
from vgate.wire.codec import WireError, decode_launcher_to_frontend, encode
from vgate.wire.control import (
    EngineOrder,
    EngineOrdered,
    EngineState,
    FrontendBeat,
    HandOver,
    LedgerState,
    ModelDemand,
    ModelOrder,
)
from vgate.wire.sockets import AsyncDealer

_BEAT_S = 0.25
# It looks for messages ten times a second.
_ANSWER_S = 5.0
# A model with several engines has the first of these states that one of them is in.
_BEST_FIRST = ("ready", "draining", "starting", "restarting", "queued", "unloaded", "failed")

log = Log("vgate.frontend")


class LauncherLink:
    """This frontend's link to the launcher. Call `beat` once to start the heartbeats.

    Args:
        worker: This frontend's number.
        heartbeat: Returns this frontend's state; its argument is `draining`.
        on_drain: Called once when the server stops, with the limits of `Drain`. It sets `draining`,
            now or later.
        on_hand_over: Called once when another frontend has taken this one's place.

    Attributes:
        stopping: Whether the server is stopping.
        draining: Whether it refuses new requests for that.
        ledger_problem: Why the launcher can't write to the ledger; empty if it can.
        on_beat: Called before each heartbeat.
        on_state: Called when the launcher has told an engine's state.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        runtime: Runtime,
        worker: int,
        *,
        heartbeat: Callable[[bool], FrontendBeat],
        on_drain: Callable[[float, float], None],
        on_hand_over: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._heartbeat = heartbeat
        self._on_drain = on_drain
        self._on_hand_over = on_hand_over
        self.stopping = self.draining = False
        self.ledger_problem = ""
        self.on_beat: Callable[[], None] = lambda: None
        self.on_state: Callable[[], None] = lambda: None
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
        self._last_order = 0
        self._orders: dict[int, asyncio.Future[str]] = {}

    def note(self, engine: int, detail: str | None) -> None:
        """Take an engine for ready that the launcher doesn't know; None: it is gone."""
        self._engines.pop(engine, None)
        if detail is not None:
            self._engines[engine] = EngineState("ready", detail, time.time(), engine)

    def engine_state(self, numbers: Iterable[int]) -> EngineState | None:
        """Return the best state of these engines and the sum of their restarts.

        None until the launcher has reported one.
        """
        states = [self._engines[number] for number in numbers if number in self._engines]
        if not states:
            return None
        best = min(states, key=lambda state: _BEST_FIRST.index(state.state))
        return msgspec.structs.replace(best, restarts=sum(state.restarts for state in states))

    async def order(
        self, engine: int, action: Literal["drain", "resume", "restart"], *, force: bool = False
    ) -> str:
        """Have the launcher drain, resume or restart an engine; return why it can't, or ""."""
        self._last_order += 1
        return await self._ordered(EngineOrder(self._last_order, engine, action, force))

    async def order_model(
        self, model: str, action: Literal["load", "unload"], *, force: bool = False
    ) -> str:
        """Have the launcher load or unload a model; return why it can't, or ""."""
        self._last_order += 1
        return await self._ordered(ModelOrder(self._last_order, model, action, force))

    async def _ordered(self, order: EngineOrder | ModelOrder) -> str:
        number = order.id
        answer: asyncio.Future[str] = self._loop.create_future()
        self._orders[number] = answer
        self._dealer.send(encode(order))
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            return "the launcher does not answer; try again"
        finally:
            del self._orders[number]

    def tell(self, demand: ModelDemand) -> None:
        """Tell the launcher which models are wanted."""
        self._dealer.send(encode(demand))

    def beat(self) -> None:
        """Send a heartbeat now and regularly from now on. Call it when a state changes."""
        if self._beating is not None:
            self._beating.cancel()
        self._beating = self._loop.call_later(_BEAT_S, self.beat)
        self.on_beat()
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
                self.on_state()
            elif isinstance(message, LedgerState):
                self.ledger_problem = message.problem
            elif isinstance(message, EngineOrdered):
                if (answer := self._orders.get(message.id)) is not None and not answer.done():
                    answer.set_result(message.problem)
            elif isinstance(message, HandOver):
                self._on_hand_over()
            else:
                if not self.stopping:
                    self.stopping = True
                    self._on_drain(message.timeout_s, message.delay_s)
                self.beat()

    def _on_lost(self) -> None:
        # The kernel ends this process too (see vgate.child_process).
        log.error("lost the launcher")
