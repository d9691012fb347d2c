"""A pool's engines as the router sees them. With a single engine there is nothing to route."""

from typing import Any

import msgspec

from vgate.errors import EngineUnavailableError, InternalError, VGateError
from vgate.frontend.engines.handle import EngineHandle, Loss
from vgate.frontend.engines.resumption import cannot_join
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.observe import metrics
from vgate.frontend.routing import Replica, Router
from vgate.wire.kv_blocks import KvBlocks
from vgate.wire.messages import Embed, Generate, ModelInfo, Status
from vgate.wire.stats import EngineStats, Histogram

_REMOTE = "tcp://"


class Replicas:
    """Chooses an engine for each sequence, and tells the router what becomes of it.

    Attributes:
        router: Chooses.
        models: The model of each connected engine.
    """

    def __init__(self, router: Router) -> None:
        self.router = router
        self._replicas: dict[EngineHandle, Replica] = {}
        self.models: dict[EngineHandle, ModelInfo] = {}
        # Those that were asked for their blocks.
        self._watched: set[EngineHandle] = set()
        # Those that were lost and may be alive.
        self._away: set[EngineHandle] = set()

    def add(self, handle: EngineHandle) -> None:
        """Add an engine."""
        name = handle.endpoint.removeprefix(_REMOTE)
        if name == handle.endpoint:
            # All frontends have the same list of those on this machine.
            name = str(len(self._replicas))
        self._replicas[handle] = Replica(name)
        self._watch()

    def remove(self, handle: EngineHandle) -> None:
        """Forget an engine that has no sequences."""
        self._forget(handle)
        self._replicas.pop(handle, None)
        if len(self._replicas) == 1:
            # There is nothing to choose.
            for left in self._watched:
                left.watch_blocks(wanted=False)
                self.router.forget(self._replicas[left])
            self._watched.clear()

    def connected(self, handle: EngineHandle, model: ModelInfo) -> None:
        """An engine is connected."""
        self.models[handle] = model
        self._away.discard(handle)
        self._replicas[handle].max_num_seqs = model.max_num_seqs
        self._watch()

    def lost(self, handle: EngineHandle, loss: Loss) -> None:
        """An engine is gone."""
        self._forget(handle)
        if loss.alive:
            self._away.add(handle)
        replica = self._replicas[handle]
        for sequence in loss.sequences:
            if (ticket := sequence.ticket) is not None:
                ticket.ended()
                sequence.ticket = None
        if not (loss.refused or handle.status.draining):
            replica.breaker.died()

    def cannot_join(self, handle: EngineHandle) -> VGateError:
        """Return why a stream that this engine kept can't be taken up, as it is not connected."""
        return cannot_join(alive=handle in self._away)

    def choose(
        self, engines: list[EngineHandle], sequence: Sequence, message: Generate | Embed
    ) -> EngineHandle:
        """Return one of the engines, at least one, that take sequences."""
        if len(self._replicas) == 1:
            return engines[0]
        candidates = {}
        for engine in engines:
            replica = self._replicas[engine]
            replica.hear(engine.status)
            candidates[replica] = engine
        ticket = sequence.ticket = self.router.choose(list(candidates), message)
        engine = candidates[ticket.replica]
        model, name = self.models[engine].name, ticket.replica.name
        metrics.record_routed(model, name, ticket.reason, ticket.tokens, ticket.cached)
        return engine

    def ended(self, sequences: list[Sequence]) -> None:
        """Sequences have ended, or are about to be stopped."""
        for sequence in sequences:
            if (ticket := sequence.ticket) is None:
                continue
            sequence.ticket = None
            failed = isinstance(sequence.error, InternalError | EngineUnavailableError)
            ticket.ended(failed=failed)

    def blocks(self, handle: EngineHandle, message: KvBlocks) -> None:
        """Take over what an engine reports of its blocks."""
        if not self.router.blocks(self._replicas[handle], message):
            handle.watch_blocks()

    def _watch(self) -> None:
        if len(self._replicas) > 1 and self.router.reads_prefixes:
            for handle in self.models.keys() - self._watched:
                self._watched.add(handle)
                handle.watch_blocks()

    def _forget(self, handle: EngineHandle) -> None:
        self.models.pop(handle, None)
        self._watched.discard(handle)
        self._away.discard(handle)
        self.router.forget(self._replicas[handle])


def combined(statuses: list[Status]) -> Status:
    """Return one status for several engines: sums, and the mean KV cache usage."""
    if len(statuses) == 1:
        return statuses[0]
    stats = [status.stats for status in statuses if status.stats is not None]
    return Status(
        sum(status.running for status in statuses),
        sum(status.waiting for status in statuses),
        sum(status.kv_cache_usage for status in statuses) / max(1, len(statuses)),
        _summed(stats) if stats else None,
        # Engines may share a GPU.
        gpus=list({gpu.number: gpu for status in statuses for gpu in status.gpus}.values()),
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
