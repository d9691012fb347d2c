"""The engines of one model: which one runs a sequence, and which one continues it.

A sequence whose engine dies continues in another one at once, or waits for the next, and so does a
new one that comes meanwhile (`resumption`).
"""

import asyncio
from collections.abc import Callable

from vgate.config.schema import Routing
from vgate.errors import EngineUnavailableError, VGateError
from vgate.frontend.engines.handle import EngineHandle, Loss
from vgate.frontend.engines.replicas import Replicas, combined
from vgate.frontend.engines.resumption import Survivors, fail_lost, identity_of, least, resubmission
from vgate.frontend.engines.sequence import SWEEP_S, Sequence, fail, fail_late
from vgate.frontend.observe import metrics
from vgate.frontend.routing import Router
from vgate.log import Log
from vgate.wire.control import Demand
from vgate.wire.kept import Claimed
from vgate.wire.kv_blocks import KvBlocks
from vgate.wire.messages import Embed, Generate, ModelInfo, Status
from vgate.wire.progress import RequestProgress

_NOT_CONNECTED = "the engine is not connected"

log = Log("vgate.frontend")


class EnginePool:
    """The handles of one model's engines. Used from the event loop only.

    All engines in use serve the same model: one that describes its model differently gets no
    sequences as long as others take them.

    Args:
        on_model: Called with the model when an engine is connected.
        on_lost: Called when an engine is gone, before sequences end because of it.
        survivors: Holds the sequences that wait for an engine.

    Attributes:
        residence: Has the requests that wait for the model; None if it always is loaded.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_model: Callable[[ModelInfo], None],
        on_lost: Callable[[], None],
        survivors: Survivors,
    ) -> None:
        self._loop = loop
        self._on_model = on_model
        self._on_lost = on_lost
        self._survivors = survivors
        self.residence = survivors.residence
        self._replicas = Replicas(Router(Routing(), loop.time, seed=0))
        self._handles: list[EngineHandle] = []
        # Those that finish their sequences and get no more.
        self._leaving: set[EngineHandle] = set()
        # The connected engines whose model has this identity.
        self._usable: list[EngineHandle] = []
        self._identity: ModelInfo | None = None
        self._last_id = 0
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    def add(self, handle: EngineHandle) -> None:
        """Add an engine's handle, whose owner is this pool."""
        self._handles.append(handle)
        self._replicas.add(handle)

    def route(self, router: Router) -> None:
        """Choose engines with this router instead of the usual one, before any is connected."""
        self._replicas.router = router

    def remove(self, handle: EngineHandle) -> None:
        """Give an engine nothing more, and disconnect from it once its sequences have ended."""
        self._leaving.add(handle)
        self._close_idle()

    def _close_idle(self) -> None:
        for handle in [handle for handle in self._leaving if not handle.in_flight]:
            self._leaving.discard(handle)
            self._handles.remove(handle)
            self._replicas.remove(handle)
            if handle in self._usable:
                self._usable.remove(handle)
            handle.close()
            self._on_lost()

    @property
    def in_flight(self) -> int:
        """The number of sequences that have not ended."""
        running = sum(handle.in_flight for handle in self._handles)
        return running + len(self._survivors.waiting)

    @property
    def connected(self) -> bool:
        """Whether a sequence can be submitted."""
        return bool(self._usable)

    @property
    def accepts(self) -> bool:
        """Whether a sequence would be started now, and need not wait."""
        return bool(self._accepting)

    def takes(self, key: str = "") -> bool:
        """Whether a sequence can be submitted now, if only to wait for an engine that comes back.

        None can wait for the first engine: nothing is known of the model.
        """
        if self._accepting:
            return True
        return self._identity is not None and self.refusal is None and self._survivors.has_room(key)

    @property
    def refusal(self) -> str | None:
        """Why the engines refuse this frontend; None if one takes sequences or none refuses."""
        if self._usable:
            return None
        return next((handle.refusal for handle in self._handles if handle.refusal), None)

    @property
    def status(self) -> Status:
        """The last heartbeats of the engines, combined."""
        return combined([handle.status for handle in self._usable or self._handles])

    def next_id(self) -> int:
        """Return an id that no other sequence of this frontend has, in any engine."""
        self._last_id += 1
        return self._last_id

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        """Start a sequence in one of the engines, or let it wait for the next one.

        Args:
            sequence: Gets the output, and ends exactly once: by its last delta, an error, or
                `abort`.
            message: What to run; its id is from `next_id`.
            timeout_s: Longest time until the sequence ends.

        Raises:
            EngineUnavailableError: No engine is connected, or all are draining, and no more
                sequences may wait; or engines died with such a request.
        """
        sequence.deaths = self._survivors.deaths_of(message)
        if self.residence is not None:
            self.residence.use()
        if self._accepting:
            self._start(sequence, message, timeout_s)
            return
        if not (self.takes(message.tenant) or self._survivors.takes_more_of(sequence)):
            if self.residence is not None and self._identity is not None:
                raise self.residence.no_wait()
            reason = "the engine takes nothing new" if self._usable else _NOT_CONNECTED
            raise EngineUnavailableError(reason, retry_after_s=1.0)
        now = self._loop.time()
        sequence.id, sequence.message, sequence.deadline = message.id, message, now + timeout_s
        self._survivors.hold(sequence, now)
        metrics.HELD.inc()

    def _start(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        # Of one that was submitted before, the engine tells when it begins.
        sequence.started = not message.resumed
        engine = self._replicas.choose(self._accepting, sequence, message)
        engine.submit(sequence, message, timeout_s)

    async def claim(self, name: bytes) -> list[tuple[EngineHandle, Claimed]]:
        """Take a kept stream from its readers; return what its engines have of it."""
        handles = self._usable[:]
        answers = await asyncio.gather(*(handle.claim(name) for handle in handles))
        pairs = zip(handles, answers, strict=True)
        return [(handle, answer) for handle, answer in pairs if answer and answer.counted]

    async def progress(self) -> dict[int, RequestProgress]:
        """Return how far the sequences are, by their ids, as far as the engines say."""
        answers = await asyncio.gather(*(handle.progress() for handle in self._usable))
        return {number: one for answer in answers for number, one in answer.items()}

    def join(
        self, engine: EngineHandle, sequence: Sequence, message: Generate, timeout_s: float
    ) -> None:
        """Read a sequence that this engine keeps, or raise a `VGateError`; else as `submit`."""
        sequence.deaths = self._survivors.deaths_of(message)
        if engine not in self._usable:
            raise self._replicas.cannot_join(engine)
        sequence.started = True
        engine.submit(sequence, message, timeout_s)

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop sequences without an end. Call it with all that have ended, too."""
        self._replicas.ended(sequences)
        if left := [each for each in sequences if each.finish_reason is None]:
            self._survivors.discard(left)
            for handle in self._handles:
                handle.abort(left)

    def fail_all(self, error: VGateError) -> None:
        """Stop every sequence and end it with `error`."""
        fail(self._survivors.take(), error)
        for handle in self._handles:
            handle.fail_all(error)

    def fail_waiting(self, error: VGateError, *, closes: bool = True) -> None:
        """End the sequences that wait for an engine; if it `closes`, none will wait from now on."""
        fail(self._survivors.close() if closes else self._survivors.take(), error)

    def demand(self) -> Demand:
        """Return what requests want of a model that may be unloaded."""
        assert self.residence is not None
        running = sum(handle.in_flight for handle in self._handles)
        return self.residence.demand(self._survivors.lost(), running)

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        """Return a chunk of one of the model's files from any engine, as `EngineHandle` does."""
        while self._usable:
            handle = self._usable[0]
            try:
                return await handle.read_file(digest, offset)
            except EngineUnavailableError:
                if self._usable and self._usable[0] is handle:
                    raise  # it stays: this pool is being closed
        raise EngineUnavailableError(_NOT_CONNECTED, retry_after_s=1.0)

    def close(self) -> None:
        """Disconnect from all engines."""
        self._sweeper.cancel()
        for handle in self._handles:
            handle.close()

    @property
    def _accepting(self) -> list[EngineHandle]:
        return [
            handle
            for handle in self._usable
            if not handle.status.draining and handle not in self._leaving
        ]

    def on_model(self, handle: EngineHandle, model: ModelInfo) -> None:
        """Use a connected engine if it serves the same model as the others."""
        self._replicas.connected(handle, model)
        if self._usable and identity_of(model) != self._identity:
            log.error("an engine is not used: its model differs", model=model.names[0])
            return
        self._serve(model)

    def on_resumed(self, _handle: EngineHandle) -> None:
        """Start what waited while every engine was drained."""
        self._resume("an engine takes requests again")

    def on_lost(self, handle: EngineHandle, loss: Loss) -> None:
        """Resume a lost engine's sequences in another one, let them wait, or end them."""
        was_connected = handle in self._replicas.models
        # It has finished what it had read, and what it hadn't waits until the model is wanted.
        unloaded = self.residence is not None and handle.status.draining
        self._replicas.lost(handle, loss)
        was_used = handle in self._usable
        if was_used:
            self._usable.remove(handle)
        had = len(loss.sequences) + len(self._survivors.waiting)
        if loss.refused:
            ended = loss.sequences
            if all(other.refusal for other in self._handles):
                ended = [*self._survivors.take(), *ended]
        elif was_connected and not was_used:
            ended = loss.sequences  # The others have another model.
        else:
            died = not (loss.cut or unloaded)
            ended = self._survivors.keep(
                loss.sequences, died=died, unloaded=unloaded, drained=handle.status.draining
            )
            if self._survivors.closed and not self._accepting:
                ended += self._survivors.take()
        self._on_lost()
        fail_lost(ended, loss)
        if was_connected:
            resumable = len(self._survivors.waiting)
            tell = log.info if unloaded else log.warning
            event = "an engine was unloaded" if unloaded else "lost the engine"
            tell(event, reason=loss.reason, resumable=resumable, ended=had - resumable)
        if self._usable:
            self._resume("requests continue in another engine")
        elif self._replicas.models:
            self._serve(next(iter(self._replicas.models.values())))

    def on_blocks(self, handle: EngineHandle, message: KvBlocks) -> None:
        """Take over what an engine tells of its KV cache."""
        self._replicas.blocks(handle, message)

    def _serve(self, model: ModelInfo) -> None:
        """Use all connected engines that serve this model."""
        before, self._identity = self._identity, identity_of(model)
        self._usable = [
            handle
            for handle, other in self._replicas.models.items()
            if identity_of(other) == self._identity
        ]
        self._on_model(least(model, self._replicas.models.values()))
        if before != self._identity:
            message = "the engine stopped before the end of this request, and serves another model"
            error = EngineUnavailableError(message, retry_after_s=1.0)
            fail(self._survivors.take(), error)
        else:
            self._resume("engine is back")

    def _go_over(self) -> None:
        """Use connected engines with another model, if those in use take nothing more."""
        if self._accepting:
            return
        for handle, model in self._replicas.models.items():
            unused = handle not in self._usable and handle not in self._leaving
            if unused and not handle.status.draining:
                self._serve(model)
                return

    def _resume(self, event: str) -> None:
        """Submit all waiting sequences, if an engine takes them."""
        waiting = self._survivors.take() if self._accepting else []
        if not waiting:
            return
        now = self._loop.time()
        for sequence in waiting:
            message = resubmission(sequence, self.next_id())
            sequence.resumptions += sequence.losses > 0
            self._start(sequence, message, sequence.deadline - now)
        metrics.RESUMED.inc(len({id(s.answer) for s in waiting if s.losses}))
        log.info(event, resubmitted=len(waiting))

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self._close_idle()
        self._go_over()
        now = self._loop.time()
        fail_late(self._survivors.waiting, now, self._survivors.discard)
        if late := self._survivors.held_too_long(now):
            message = "the engine did not come back while this request waited for it; try again"
            fail(late, EngineUnavailableError(message, retry_after_s=5.0))
