"""The engines of one model: which one runs a sequence, and which one continues it.

A sequence whose engine dies continues in another one at once, or waits for the next, and so does a
new one that comes meanwhile (`resumption`).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from vgate.errors import EngineUnavailableError, VGateError
from vgate.frontend.engines.handle import EngineHandle, Loss
from vgate.frontend.engines.resumption import Survivors, identity_of, resubmission
from vgate.frontend.engines.sequence import SWEEP_S, Sequence, fail, fail_late
from vgate.frontend.observe import metrics
from vgate.log import Log
from vgate.wire.kept import Claimed
from vgate.wire.messages import Embed, Generate, ModelInfo, Status
from vgate.wire.stats import EngineStats, Histogram

_NOT_CONNECTED = "the engine is not connected"

# Chooses one of the engines that take sequences, at least two, for a request.
Policy = Callable[[list[EngineHandle], Generate | Embed], EngineHandle]

log = Log("vgate.frontend")


def least_in_flight(engines: list[EngineHandle], _message: Generate | Embed) -> EngineHandle:
    """Return the engine with the fewest of this frontend's sequences; of several, the first."""
    return min(engines, key=lambda engine: engine.in_flight)


POLICIES: dict[str, Policy] = {"least_in_flight": least_in_flight}


class EnginePool:
    """The handles of one model's engines. Used from the event loop only.

    All engines in use serve the same model: one that describes its model differently gets no
    sequences as long as others are connected.

    Args:
        loop: The event loop.
        on_model: Called with the model when an engine is connected.
        on_lost: Called when an engine is gone, before sequences end because of it.
        survivors: Holds the sequences that wait for an engine.
        policy: Chooses an engine for each sequence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_model: Callable[[ModelInfo], None],
        on_lost: Callable[[], None],
        survivors: Survivors,
        policy: Policy = least_in_flight,
    ) -> None:
        self._loop = loop
        self._on_model = on_model
        self._on_lost = on_lost
        self._survivors = survivors
        self._policy = policy
        self._handles: list[EngineHandle] = []
        self._connected: dict[EngineHandle, ModelInfo] = {}
        # The connected engines whose model has this identity.
        self._usable: list[EngineHandle] = []
        self._identity: object = None
        self._last_id = 0
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    def add(self, handle: EngineHandle) -> None:
        """Add an engine's handle, whose owner is this pool."""
        self._handles.append(handle)

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
    def takes(self) -> bool:
        """Whether a sequence can be submitted now, if only to wait for an engine that comes back.

        None can wait for the first engine: nothing is known of the model.
        """
        if self._accepting:
            return True
        return self._identity is not None and self.refusal is None and self._survivors.has_room

    @property
    def refusal(self) -> str | None:
        """Why the engines refuse this frontend; None if one takes sequences or none refuses."""
        if self._usable:
            return None
        return next((handle.refusal for handle in self._handles if handle.refusal), None)

    @property
    def status(self) -> Status:
        """The last heartbeats of the engines, combined."""
        return _combined([handle.status for handle in self._usable or self._handles])

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
        if self._accepting:
            self._start(sequence, message, timeout_s)
            return
        if not self.takes:
            reason = "the engine is being stopped" if self._usable else _NOT_CONNECTED
            raise EngineUnavailableError(reason, retry_after_s=1.0)
        now = self._loop.time()
        sequence.id, sequence.message, sequence.deadline = message.id, message, now + timeout_s
        self._survivors.hold(sequence, now)
        metrics.HELD.inc()

    def _start(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        # Of one that was submitted before, the engine tells when it begins.
        sequence.started = not message.resumed
        engines = self._accepting
        engine = engines[0] if len(engines) == 1 else self._policy(engines, message)
        engine.submit(sequence, message, timeout_s)

    async def claim(self, name: bytes) -> list[tuple[EngineHandle, Claimed]]:
        """Take a kept stream from its readers; return what its engines have of it."""
        handles = self._usable[:]
        answers = await asyncio.gather(*(handle.claim(name) for handle in handles))
        pairs = zip(handles, answers, strict=True)
        return [(handle, answer) for handle, answer in pairs if answer and answer.counted]

    def join(
        self, engine: EngineHandle, sequence: Sequence, message: Generate, timeout_s: float
    ) -> None:
        """Read a sequence that this engine keeps; otherwise as `submit`."""
        sequence.deaths = self._survivors.deaths_of(message)
        if engine not in self._usable:
            raise EngineUnavailableError(_NOT_CONNECTED, retry_after_s=1.0)
        sequence.started = True
        engine.submit(sequence, message, timeout_s)

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop sequences that run or wait, without an end."""
        self._survivors.discard(sequences)
        for handle in self._handles:
            handle.abort(sequences)

    def fail_all(self, error: VGateError) -> None:
        """Stop every sequence and end it with `error`."""
        fail(self._survivors.take(), error)
        for handle in self._handles:
            handle.fail_all(error)

    def fail_waiting(self, error: VGateError) -> None:
        """End the sequences that wait for an engine with `error`; none will wait from now on."""
        fail(self._survivors.close(), error)

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        """Return a chunk of one of the model's files from any engine, as `EngineHandle` does."""
        while self._usable:
            with suppress(EngineUnavailableError):
                return await self._usable[0].read_file(digest, offset)
        raise EngineUnavailableError(_NOT_CONNECTED, retry_after_s=1.0)

    def close(self) -> None:
        """Disconnect from all engines."""
        self._sweeper.cancel()
        for handle in self._handles:
            handle.close()

    @property
    def _accepting(self) -> list[EngineHandle]:
        return [handle for handle in self._usable if not handle.status.draining]

    def on_model(self, handle: EngineHandle, model: ModelInfo) -> None:
        """Use a connected engine if it serves the same model as the others."""
        self._connected[handle] = model
        if self._usable and identity_of(model) != self._identity:
            log.error("an engine is not used: its model differs", model=model.names[0])
            return
        self._serve(model)

    def on_lost(self, handle: EngineHandle, loss: Loss) -> None:
        """Resume a lost engine's sequences in another one, let them wait, or end them."""
        was_connected = self._connected.pop(handle, None) is not None
        if handle in self._usable:
            self._usable.remove(handle)
        had = len(loss.sequences) + len(self._survivors.waiting)
        if loss.refused:
            ended = loss.sequences
            if all(other.refusal for other in self._handles):
                ended = [*self._survivors.take(), *ended]
        else:
            ended = self._survivors.keep(loss.sequences)
        self._on_lost()
        worn = {id(sequence.answer) for sequence in ended if sequence.deaths > 1}
        for twice, also in ((False, ""), (True, ", as another one did before")):
            some = [sequence for sequence in ended if (id(sequence.answer) in worn) == twice]
            message = f"{loss.reason} while it worked on this request{also}; try again"
            # An answer that loses one of its sequences aborts the others, waiting ones included.
            fail(some, EngineUnavailableError(message, retry_after_s=5.0))
        if was_connected:
            resumable = len(self._survivors.waiting)
            log.warning(
                "lost the engine", reason=loss.reason, resumable=resumable, ended=had - resumable
            )
        if self._usable:
            self._resume("requests continue in another engine")
        elif self._connected:
            self._serve(next(iter(self._connected.values())))

    def _serve(self, model: ModelInfo) -> None:
        """Use all connected engines that serve this model."""
        before, self._identity = self._identity, identity_of(model)
        self._usable = [
            handle
            for handle, other in self._connected.items()
            if identity_of(other) == self._identity
        ]
        self._on_model(model)
        if before != self._identity:
            message = "the engine stopped before the end of this request, and serves another model"
            error = EngineUnavailableError(message, retry_after_s=1.0)
            fail(self._survivors.take(), error)
        else:
            self._resume("engine is back")

    def _resume(self, event: str) -> None:
        """Submit all waiting sequences, if an engine takes them."""
        waiting = self._survivors.take() if self._accepting else []
        if not waiting:
            return
        now = self._loop.time()
        for sequence in waiting:
            message = resubmission(sequence, self.next_id())
            self._start(sequence, message, sequence.deadline - now)
        metrics.RESUMED.inc(len({id(s.answer) for s in waiting if s.deaths}))
        log.info(event, resubmitted=len(waiting))

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now = self._loop.time()
        fail_late(self._survivors.waiting, now, self._survivors.discard)
        if late := self._survivors.held_too_long(now):
            message = "the engine did not come back while this request waited for it; try again"
            fail(late, EngineUnavailableError(message, retry_after_s=5.0))


def _combined(statuses: list[Status]) -> Status:
    """Return one status for several engines: sums, and the mean KV cache usage."""
    if len(statuses) == 1:
        return statuses[0]
    stats = [status.stats for status in statuses if status.stats is not None]
    return Status(
        sum(status.running for status in statuses),
        sum(status.waiting for status in statuses),
        sum(status.kv_cache_usage for status in statuses) / max(1, len(statuses)),
        _summed(stats) if stats else None,
    )


def _summed(stats: list[EngineStats]) -> EngineStats:
    columns = zip(*map(msgspec.structs.astuple, stats), strict=True)
    totals: list[Any] = [
        _merged(values) if isinstance(values[0], Histogram) else sum(values) for values in columns
    ]
    return EngineStats(*totals)


def _merged(histograms: tuple[Histogram, ...]) -> Histogram:
    columns = zip(*(histogram.counts for histogram in histograms), strict=True)
    return Histogram([sum(column) for column in columns], sum(h.total for h in histograms))
