"""The engine's loop: drain the inbox, schedule, step, flush one message per frontend.

One thread, and pure: the transport, the backend, the clock and the reports are handed in. Every
request that arrives leaves by exactly one of these: a delta with a finish reason, a failure, an
abort that its frontend asked for, or the loss of its frontend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from vgate.engine.backends.base import Backend
from vgate.engine.request import Request, request_key
from vgate.engine.scheduler import BatchScheduler
from vgate.errors import (
    ContextLengthExceededError,
    EngineUnavailableError,
    InternalError,
    InvalidValueError,
    QueueTimeoutError,
    VGateError,
)
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_engine, encode, unpack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Delta,
    Failure,
    Failures,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Status,
    Step,
    ToFrontend,
    Welcome,
)

HEARTBEAT_S = 0.25
# A backend with work that did not run the model (a grammar still compiles) is asked again after
# this long, instead of spinning.
_IDLE_STEP_S = 0.001
# Messages read between two steps; the rest waits one step, so that a flood can't starve the batch.
_INBOX_BATCH = 4096

log = Log("vgate.engine")


class Transport(Protocol):
    """How the loop talks to frontends."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until something can be received, at most this long."""

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next (peer, payload), or None."""

    def send(self, peer: bytes, payload: bytes) -> bool:
        """Send without waiting; False if the peer is gone."""


class Beat(msgspec.Struct, frozen=True):
    """What the loop reports about itself at every heartbeat."""

    running: int
    waiting: int


class EngineLoop:
    """See the module.

    Args:
        backend: Runs the model.
        scheduler: Decides who enters the batch.
        transport: Where frontends are.
        clock: Monotonic seconds.
        on_beat: Called at every heartbeat.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: BatchScheduler,
        transport: Transport,
        *,
        clock: Callable[[], float],
        on_beat: Callable[[Beat], None] = lambda _beat: None,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._transport = transport
        self._clock = clock
        self._on_beat = on_beat
        self._peers: dict[bytes, str] = {}
        self._running: dict[str, Request] = {}
        self._failures: dict[bytes, list[Failure]] = {}
        self._next_beat = clock()
        self._stopping = False

    def run(self) -> None:
        """Turn until `stop` is called. An exception out of the backend ends it, see `fail_all`."""
        while not self._stopping:
            self.turn()

    def stop(self) -> None:
        """End `run` after the current turn. May be called from a signal handler."""
        self._stopping = True

    def turn(self) -> None:
        """Do one round."""
        if not self._backend.has_work():
            self._transport.wait(self._idle_s())
        self._drain()
        now = self._clock()
        self._expire(now)
        self._admit(now)
        self._step()
        self._flush_failures()
        if now >= self._next_beat:
            self._beat(now)

    def fail_all(self, error: VGateError) -> None:
        """End every request with `error`, because the process ends."""
        for request in self._scheduler.all():
            self._fail(request, error)
        self._flush_failures()

    def _idle_s(self) -> float:
        """How long the loop may sleep while the backend has nothing to do."""
        now = self._clock()
        until_beat = self._next_beat - now
        if self._scheduler.waiting:
            gather = self._scheduler.gather_s(now)
            return min(gather, until_beat, self._scheduler.next_deadline - now)
        return until_beat

    def _drain(self) -> None:
        receive = self._transport.receive
        for _ in range(_INBOX_BATCH):
            received = receive()
            if received is None:
                return
            peer, payload = received
            try:
                message = decode_to_engine(payload)
            except WireError as error:
                log.warning("dropped a malformed message", peer=self._name(peer), error=error)
                continue
            match message:
                case Generate():
                    self._on_generate(peer, message)
                case Abort():
                    self._on_abort(peer, message)
                case Hello():
                    self._on_hello(peer, message)
                case Goodbye():
                    self._forget(peer, "said goodbye")

    def _on_hello(self, peer: bytes, message: Hello) -> None:
        if message.protocol != PROTOCOL_VERSION:
            reason = (
                f"the engine speaks protocol {PROTOCOL_VERSION}, {message.name} speaks "
                f"{message.protocol}: run the same V-Gate version everywhere"
            )
            log.error("refused a frontend", name=message.name, reason=reason)
            self._send(peer, Refused(PROTOCOL_VERSION, reason))
            return
        self._peers[peer] = message.name
        self._send(peer, Welcome(PROTOCOL_VERSION, self._backend.model))

    def _on_generate(self, peer: bytes, message: Generate) -> None:
        if peer not in self._peers:
            # It was given up while it stood still, and now goes on as if nothing had happened.
            self._send(peer, Refused(PROTOCOL_VERSION, "say hello first"))
            return
        if self._scheduler.holds(request_key(peer, message.id)):
            # A failure would end the first of the two, which has done nothing wrong.
            log.error("dropped a request with a number in use", peer=self._name(peer))
            return
        now = self._clock()
        try:
            request = self._request(peer, message, now)
            self._scheduler.submit(request, now)
        except VGateError as error:
            self._add_failure(peer, message.id, error)
        except WireError as error:
            self._add_failure(peer, message.id, InternalError(str(error)))

    def _request(self, peer: bytes, message: Generate, now: float) -> Request:
        prompt = unpack_token_ids(message.prompt)
        limit = self._backend.model.max_model_len
        room = limit - len(prompt)
        if not prompt:
            empty = "the prompt is empty"
            raise InvalidValueError(empty, param="messages")
        if room < 1:
            too_long = f"the prompt has {len(prompt)} tokens, the model's limit is {limit}"
            raise ContextLengthExceededError(too_long, param="messages")
        wanted = message.sampling.max_tokens or room
        sampling = msgspec.structs.replace(message.sampling, max_tokens=min(wanted, room))
        request = Request(peer, message.id, prompt, sampling)
        request.tenant = message.tenant
        request.weight = message.weight
        request.arrived = now
        request.queue_deadline = now + message.queue_timeout_s
        return request

    def _on_abort(self, peer: bytes, message: Abort) -> None:
        # An abort that crosses the request's own end finds nothing, which is right: the end was
        # sent already, and the frontend ignores deltas of requests that it gave up.
        for number in message.ids:
            self._cancel(request_key(peer, number))

    def _cancel(self, key: str) -> None:
        self._scheduler.cancel(key)
        if self._running.pop(key, None):
            self._backend.abort([key])

    def _expire(self, now: float) -> None:
        for request in self._scheduler.expire(now):
            waited = now - request.arrived
            message = f"the request waited {waited:.0f} s and was not started"
            retry_after_s = self._scheduler.retry_after_s()
            self._fail(request, QueueTimeoutError(message, retry_after_s=retry_after_s))

    def _admit(self, now: float) -> None:
        for request in self._scheduler.admit(now):
            try:
                self._backend.add(request)
            except VGateError as error:
                self._scheduler.cancel(request.key)
                self._fail(request, error)
            else:
                self._running[request.key] = request

    def _step(self) -> None:
        if not self._backend.has_work():
            return
        outputs = self._backend.step()
        if outputs is None:
            self._transport.wait(_IDLE_STEP_S)
            return
        by_peer: dict[bytes, list[Delta]] = {}
        finished: list[Request] = []
        running = self._running
        for key, token_ids, finish_reason, cached_tokens, error in outputs:
            request = running.get(key)
            if request is None:
                continue
            if error is not None:
                self._fail(request, error)
                continue
            request.generated_tokens += len(token_ids)
            delta = Delta(request.id, token_ids, finish_reason, cached_tokens)
            deltas = by_peer.get(request.peer)
            if deltas is None:
                by_peer[request.peer] = [delta]
            else:
                deltas.append(delta)
            if finish_reason is not None:
                finished.append(request)
        if finished:
            now = self._clock()
            for request in finished:
                del running[request.key]
                self._scheduler.finish(request, now)
        for peer, deltas in by_peer.items():
            self._send(peer, Step(deltas))

    def _fail(self, request: Request, error: VGateError) -> None:
        self._cancel(request.key)
        self._add_failure(request.peer, request.id, error)

    def _add_failure(self, peer: bytes, number: int, error: VGateError) -> None:
        failure = Failure(number, error.code, error.message, error.retry_after_s)
        self._failures.setdefault(peer, []).append(failure)

    def _flush_failures(self) -> None:
        if self._failures:
            failures, self._failures = self._failures, {}
            for peer, of_peer in failures.items():
                self._send(peer, Failures(of_peer))

    def _beat(self, now: float) -> None:
        self._next_beat = now + HEARTBEAT_S
        running, waiting = len(self._running), self._scheduler.waiting
        status = Status(running, waiting, self._backend.kv_cache_usage())
        for peer in list(self._peers):
            self._send(peer, status)
        self._on_beat(Beat(running, waiting))

    def _send(self, peer: bytes, message: ToFrontend) -> None:
        if not self._transport.send(peer, encode(message)):
            self._forget(peer, "is gone or has stopped reading")

    def _forget(self, peer: bytes, reason: str) -> None:
        """Drop a frontend and abort all it has here. Without it nobody would read the answers."""
        if name := self._peers.pop(peer, None):
            orphans = list(self._scheduler.of_peer(peer))
            for request in orphans:
                self._cancel(request.key)
            log.info("frontend left", name=name, reason=reason, aborted=len(orphans))
        self._failures.pop(peer, None)

    def _name(self, peer: bytes) -> str:
        return self._peers.get(peer, peer.hex())


def engine_died(reason: str) -> VGateError:
    """Return the error that requests end with when the engine can't go on."""
    return EngineUnavailableError(f"the engine stopped: {reason}", retry_after_s=5.0)
