"""The engine's loop: read the inbox, schedule, step, send one message to each frontend.

It runs in one thread and is pure: transport, backend and clock are passed in. Every request ends
exactly once: with a finish reason, a failure, an abort by its frontend, or the loss of its frontend
or of the engine.
"""

import math
from collections.abc import Callable, Iterable

from vgate.engine.backends.base import Backend, Output
from vgate.engine.blocks.reports import BlockReports
from vgate.engine.delivery import PendingFailures, PendingStarts, Subscriptions, catch_up, deliver
from vgate.engine.kept import KeptStreams
from vgate.engine.patience import Patience
from vgate.engine.request import Request, RequestError, Subscriber, to_request
from vgate.engine.scheduler import BatchScheduler
from vgate.engine.served_files import FileServer
from vgate.engine.stats import StatsCounter
from vgate.engine.transport import Transport, refusal_of
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_engine, encode, number_of_request
from vgate.wire.kept import Claim
from vgate.wire.kv_blocks import WatchBlocks
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Embed,
    Ending,
    FetchFile,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Status,
    Step,
    ToFrontend,
    Welcome,
)
from vgate.wire.progress import AskProgress

HEARTBEAT_S = 0.25
# Before the next step if the model could not run, as while a grammar compiles.
_IDLE_STEP_S = 0.001
# Most messages read between two steps, so that a flood of them can't starve the batch.
_INBOX_BATCH = 4096

log = Log("vgate.engine")


class EngineLoop:
    """Runs a backend for the frontends that connect.

    `clock` returns monotonic seconds; `on_beat` is called with each heartbeat and before a step
    that may take longer than `patience` told it. If `cordoned`, frontends are to send no more.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: BatchScheduler,
        transport: Transport,
        *,
        clock: Callable[[], float],
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._transport = transport
        self._clock = clock
        self._on_beat = on_beat
        self._peers: dict[bytes, str] = {}
        self._subscriptions = Subscriptions()
        self._kept = KeptStreams(self._subscriptions)
        self.stats = StatsCounter()
        self.patience = Patience()
        self._reports = BlockReports(backend.follow_blocks)
        self._last_key = 0
        self._failures, self._starts = PendingFailures(), PendingStarts()
        self._files = FileServer(backend.files, backend.model.files)
        self._next_beat = clock()
        self._stopping = self.cordoned = self.draining = False
        self._drain_until, self._announced_drain = math.inf, False

    def run(self) -> None:
        """Run until `stop` is called. The backend's exceptions pass through; then call `end`."""
        while not self._stopping:
            self.turn()

    def stop(self) -> None:
        """End `run` after the current turn. May be called from a signal handler."""
        self._stopping = True

    def drain(self, timeout_s: float) -> None:
        """Finish all requests and tell frontends to send no more; then `run` ends.

        Requests already on their way are finished as well. After `timeout_s` `run` ends anyway.
        """
        log.info("draining", timeout_s=timeout_s, waiting=self._scheduler.waiting)
        self._next_beat, self.draining = self._clock(), True
        self._drain_until = self._next_beat + timeout_s

    def turn(self) -> None:
        """Run one iteration, with at most one step of the backend."""
        if not (self._backend.has_work() or self._files.wanted or self._reports.urgent):
            self._transport.wait(self._scheduler.idle_s(self._clock(), self._next_beat))
        self._read_inbox()
        now = self._clock()
        self._expire(now)
        self._admit(now)
        self._step()
        self._flush_failures()
        if self._files.wanted:
            self._send(*self._files.next_chunk())
        if self._reports.watchers:
            for peer, blocks in self._reports.messages(now, idle=not self._backend.has_work()):
                self._send(peer, blocks)
        if now >= self._next_beat:
            self._beat(now)

    def end(self, reason: str) -> None:
        """Tell every frontend that the engine ends, so that they end or move their requests."""
        self._flush_failures()
        for peer in list(self._peers):
            self._send(peer, Ending(reason))

    def _read_inbox(self) -> None:
        receive = self._transport.receive
        for _ in range(_INBOX_BATCH):
            received = receive()
            if received is None:
                return
            peer, payload = received
            try:
                message = decode_to_engine(payload)
            except WireError as error:
                self._on_malformed(peer, payload, error)
                continue
            match message:
                case Generate() | Embed():
                    self._on_request(peer, message)
                case Abort():
                    for number in message.ids:
                        self._abort((peer, number))
                case Claim():
                    claimed, notices = self._kept.claim(message, self._clock())
                    self._failures.add(notices)
                    self._send(peer, claimed)
                case Hello():
                    self._on_hello(peer, message)
                case AskProgress():
                    self._send(peer, self._subscriptions.progress(peer, self._scheduler.running))
                case Goodbye():
                    self._disconnect(peer, "said goodbye")
                case FetchFile():
                    self._files.wanted[peer] = message
                case WatchBlocks() if peer in self._peers:
                    self._reports.watch(peer, wanted=message.wanted)

    def _on_hello(self, peer: bytes, message: Hello) -> None:
        if (reason := refusal_of(message)) is not None:
            log.error("refused a frontend", name=message.name, reason=reason)
            self._send(peer, Refused(PROTOCOL_VERSION, reason))
            return
        self._peers[peer] = message.name
        self._send(peer, Welcome(PROTOCOL_VERSION, self._backend.model))
        if self.cordoned:
            self._next_beat = self._clock()  # which tells the newcomer

    def _on_request(self, peer: bytes, message: Generate | Embed) -> None:
        if peer not in self._peers:
            # It was disconnected while it hung, and doesn't know yet.
            self._send(peer, Refused(PROTOCOL_VERSION, "say hello first"))
            return
        subscriber = (peer, message.id)
        if subscriber in self._subscriptions:
            # A failure would end the valid request with that number.
            log.error("dropped a request with a number in use", peer=self._name(peer))
            return
        now = self._clock()
        if isinstance(message, Generate) and self._join(message, subscriber, now):
            return
        self._last_key += 1
        try:
            request = to_request(message, str(self._last_key), self._backend.model, now)
            self._scheduler.submit(request, now)
        except (RequestError, WireError) as error:
            self._failures.add([(subscriber, error)])
        else:
            self._subscriptions.add(request, subscriber)
            self._kept.add(message, request, subscriber)
            if isinstance(message, Generate) and message.buffered:
                request.delivered[subscriber] = 0

    def _join(self, message: Generate, subscriber: Subscriber, now: float) -> bool:
        """Add a subscriber to a kept sequence or an identical request in flight, if there is one.

        It gets the output so far, then each later step's. Nothing is lost or sent twice between the
        two, because this runs between steps.
        """
        if message.keep is not None and message.keep.joins:
            delta, notices = self._kept.join(message.keep, subscriber, now)
            if delta is not None:
                self._send(subscriber[0], Step(deltas=[delta]))
            self._failures.add(notices)
            return True
        request = self._subscriptions.find(message)
        if request is None:
            return False
        self._subscriptions.add(request, subscriber)
        self._kept.add(message, request, subscriber)
        self._scheduler.raise_priority(request, message.priority)
        delta = catch_up(request, subscriber, buffered=message.buffered)
        self._send(subscriber[0], Step(deltas=[delta]))
        return True

    def _on_malformed(self, peer: bytes, payload: bytes, error: WireError) -> None:
        """Report a message that can't be read; a request must not wait for its timeout."""
        log.warning("dropped a malformed message", peer=self._name(peer), error=error)
        if peer in self._peers and (number := number_of_request(payload)) is not None:
            self._failures.add([((peer, number), error)])

    def _abort(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, and its request if that has no other one left."""
        # The request may have just ended: the frontend ignores output of requests that it aborted.
        stopped = self._kept.stop(subscriber, self._clock())
        request = stopped or self._subscriptions.remove(subscriber)
        if request is not None and not self._kept.holds(request):
            self._remove(request)

    def _remove(self, request: Request) -> None:
        """Remove a request from the scheduler and the backend."""
        running = request.key in self._scheduler.running
        self.patience.removed(request)
        self._scheduler.remove(request.key)
        if running:
            self._backend.abort([request.key])

    def _expire(self, now: float) -> None:
        for request, error in self._scheduler.expire(now):
            self._fail(request, error)

    def _admit(self, now: float) -> None:
        may_be_slow = False
        for request in self._scheduler.admit(now):
            if request.resumed:
                # First of all: the engine may die of it from here on.
                for peer, number in list(request.subscribers):
                    self._send(peer, Step(deltas=[Delta(number, [])]))
            try:
                self._backend.add(request)
            except RequestError as error:
                # The backend has not kept it, so there is nothing to abort.
                self._scheduler.remove(request.key)
                self._fail(request, error)
            else:
                request.started = now
                self.stats.started(now - request.arrived)
                self._starts.add(request, now - request.arrived)
                may_be_slow |= self.patience.started(request, len(self._scheduler.running))
        if may_be_slow:
            self._on_beat()

    def _step(self) -> None:
        if not self._backend.has_work():
            return
        began = self._clock()
        outputs = self._backend.step()
        if outputs is None:
            self._transport.wait(_IDLE_STEP_S)
            return
        now = self._clock()
        self.stats.step(len(self._scheduler.running), now - began)
        self._deliver(outputs, now)
        self.patience.stepped(self._scheduler.running, now - began, now)

    def _deliver(self, outputs: Iterable[Output], now: float) -> None:
        model, running = self._backend.model, self._scheduler.running
        messages, finished, failed, prefills_s = deliver(model, outputs, running, now)
        self.stats.prefilled(prefills_s)
        for request, error in failed:
            self._fail(request, error)
        for request in finished:
            self.stats.finished(request, now)
            self._scheduler.finish(request, now)
            self._kept.finish(request, now)
            self._subscriptions.end(request)
        for peer, message in self._starts.take_with(messages):
            self._send(peer, message)

    def _fail(self, request: Request, error: RequestError) -> None:
        self._remove(request)
        self._kept.fail(request)
        self._failures.add((each, error) for each in self._subscriptions.end(request))

    def _flush_failures(self) -> None:
        for peer, failures in self._failures.take():
            self._send(peer, failures)

    def _beat(self, now: float) -> None:
        self._next_beat = now + HEARTBEAT_S
        for request in self._kept.expire(now):
            self._remove(request)
        running, waiting = len(self._scheduler.running), self._scheduler.waiting
        stats = self.stats.now(*self._backend.counts())
        self._scheduler.preempted(stats.preemptions)
        takes_no_more, usage = self.draining or self.cordoned, self._backend.kv_cache_usage()
        load = self._scheduler.load(self._reports.blocks, self._backend.prefill_tokens_per_s())
        gpus = self._backend.gpus()
        status = Status(running, waiting, usage, stats, takes_no_more, gpus, load)
        for peer in list(self._peers):
            self._send(peer, status)
        if self.draining:
            # Frontends have a heartbeat's time to stop sending.
            finished = self._announced_drain and not running + waiting
            self._stopping = finished or not self._peers or now >= self._drain_until
            self._announced_drain = True
        self._on_beat()

    def _send(self, peer: bytes, message: ToFrontend) -> None:
        if not self._transport.send(peer, encode(message)):
            self._disconnect(peer, "is gone or has stopped reading", lost=True)

    def _disconnect(self, peer: bytes, reason: str, *, lost: bool = False) -> None:
        """Disconnect a frontend and abort its requests."""
        if name := self._peers.pop(peer, None):
            orphans = self._subscriptions.of_peer(peer)
            now = self._clock()
            for subscriber in orphans:
                if not self._kept.leave(subscriber, now, counts=not lost):
                    self._abort(subscriber)
            log.info("frontend left", name=name, reason=reason, aborted=len(orphans))
        self._failures.forget(peer)
        self._files.wanted.pop(peer, None)
        self._reports.forget(peer)

    def _name(self, peer: bytes) -> str:
        return self._peers.get(peer, peer.hex())
