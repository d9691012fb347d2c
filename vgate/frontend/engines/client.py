"""The `EngineHandle` over ZeroMQ: sends requests and aborts, and passes steps to the answers.

It starts no task for a request or a token: one callback handles a batch of messages.
"""

import asyncio
import time

import msgspec

from vgate.errors import EngineUnavailableError, VGateError
from vgate.frontend.engines.handle import HandleOwner, Loss
from vgate.frontend.engines.output.deferred import Deferred
from vgate.frontend.engines.output.flushing import Flushing
from vgate.frontend.engines.output.gaps import Gaps
from vgate.frontend.engines.sequence import SWEEP_S, Reader, Sequence, fail, fail_late
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_frontend, encode
from vgate.wire.curve import ClientKeys
from vgate.wire.kept import Claim, Claimed
from vgate.wire.kv_blocks import KvBlocks, WatchBlocks
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Answer,
    Embed,
    Embeddings,
    Ending,
    Failures,
    FetchFile,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.progress import AskProgress, Progress, RequestProgress
from vgate.wire.sockets import AsyncDealer

_RECONNECT_S = 0.05
_RECONNECT_REFUSED_S = 1.0
# What kills its engine nearly always does so with its prompt, or with the next token.
_PROVED_S = 1.0

log = Log("vgate.frontend")


class EngineClient:
    """A connection to one engine. Used from the event loop only.

    Args:
        endpoint: The engine's ZeroMQ endpoint.
        name: This frontend's name, for the engine's log.
        owner: Called when an engine is connected or lost.
        keys: For an engine on another host.

    Attributes:
        endpoint: As given.
        connected: Whether the engine has welcomed this frontend and is not lost.
        refusal: Why the engine refuses this frontend; None if it doesn't.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        name: str,
        owner: HandleOwner,
        keys: ClientKeys | None = None,
    ) -> None:
        self._loop = loop
        self.endpoint = endpoint
        self._name = name
        self._owner = owner
        self._keys = keys
        self._running: dict[int, Sequence] = {}
        self._deferred = Deferred(loop)
        self._flushing = Flushing(loop)
        # The last request for a file's chunk, and the future that its chunk completes.
        self._fetch = FetchFile(b"", 0)
        self._chunk: asyncio.Future[bytes] | None = None
        self._last_claim = 0
        self._claims: dict[int, asyncio.Future[Claimed | None]] = {}
        self._progress: asyncio.Future[dict[int, RequestProgress]] | None = None
        self._gaps = Gaps()
        self.connected = False
        self.refusal: str | None = None
        self._closed = False
        self.status = Status(0, 0, 0.0)
        self._dealer = self._connect()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """The number of sequences that have not ended, or whose end was not read yet."""
        return len(self._running) + sum(one.id not in self._running for one in self._deferred)

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        """Start a sequence."""
        sequence.deadline = self._loop.time() + timeout_s
        sequence.id = message.id
        sequence.message = message
        if not sequence.generated:
            sequence.submitted_at, sequence.queued_s = time.monotonic(), None
        self._running[message.id] = sequence
        self._dealer.send(encode(message))

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop the sequences that run here, without an end."""
        for sequence in sequences:
            self._deferred.drop(sequence)
        stopped = [s for s in sequences if self._running.pop(s.id, None) is not None]
        for sequence in stopped:
            self._gaps.end(sequence.gaps)
        if stopped and self.connected:
            self._dealer.send(encode(Abort([sequence.id for sequence in stopped])))

    def fail_all(self, error: VGateError) -> None:
        """Stop every sequence and end it with `error`; one that is kept goes on in the engine."""
        self._flushing.flush()
        sequences = list(self._running.values())
        kept = [s for s in sequences if isinstance(s.message, Generate) and s.message.keep]
        for sequence in kept:
            del self._running[sequence.id]
        self.abort(sequences)
        fail(sequences, error)

    async def claim(self, name: bytes) -> Claimed | None:
        """Take a kept stream from its readers, for `submit` to join; None if the engine is lost."""
        if not self.connected:
            return None
        self._last_claim += 1
        claimed: asyncio.Future[Claimed | None] = self._loop.create_future()
        self._claims[self._last_claim] = claimed
        self._dealer.send(encode(Claim(self._last_claim, name)))
        return await claimed

    async def progress(self) -> dict[int, RequestProgress]:
        """Return how far the sequences are, by their ids; none if the engine is lost."""
        if not self.connected:
            return {}
        if self._progress is None:
            self._progress = self._loop.create_future()
            self._dealer.send(encode(AskProgress()))
        # Of several that wait, one may leave before the answer.
        return await asyncio.shield(self._progress)

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        """Return a chunk of one of the model's files."""
        if not self.connected:
            raise _disconnected()
        self._fetch = FetchFile(digest, offset)
        self._chunk = self._loop.create_future()
        self._dealer.send(encode(self._fetch))
        return await self._chunk

    def watch_blocks(self, *, wanted: bool = True) -> None:
        """Have the engine tell its owner the blocks of its KV cache, or nothing more of them."""
        self._dealer.send(encode(WatchBlocks(wanted)))

    def close(self) -> None:
        """Disconnect from the engine."""
        self._closed = True
        self._sweeper.cancel()
        if self.connected:
            self._dealer.send(encode(Goodbye()))
        self.connected = False
        self._dealer.close()
        self._end_questions()

    def _connect(self) -> AsyncDealer:
        dealer = AsyncDealer(
            self._loop,
            self.endpoint,
            self._name,
            on_batch=self._on_batch,
            on_lost=lambda: self._lose("the engine stopped"),
            keys=self._keys,
        )
        dealer.send(encode(Hello(PROTOCOL_VERSION, self._name)))
        return dealer

    def _on_batch(self, batch: list[bytes]) -> None:
        urgent: dict[Reader, None] = {}
        ending: str | None = None
        delivered = False
        try:
            for payload in batch:
                try:
                    message = decode_to_frontend(payload)
                except WireError as error:
                    log.error("dropped a malformed message from the engine", error=error)
                    continue
                if type(message) is Step:
                    if not delivered:
                        delivered = True
                        self._gaps.delivered(self._loop.time())
                    self._on_step(message, urgent)
                elif type(message) is Embeddings:
                    self._on_embeddings(message, urgent)
                elif type(message) is Failures:
                    self._on_failures(message, urgent)
                elif type(message) is Ending:
                    ending = message.reason
                    break
                elif type(message) is Refused:
                    # This closes the connection, so the remaining messages don't count.
                    self._on_refused(message)
                    break
                else:
                    self._on_other(message)
        finally:
            # Whatever the owner's callbacks do, no end that was read is lost.
            self._flushing.after_batch(urgent)
        if ending is not None:
            # Only now: the answers have read the messages before it.
            self._lose(f"the engine stopped: {ending}")

    def _on_other(self, message: Welcome | Answer | Status | KvBlocks) -> None:
        if isinstance(message, KvBlocks):
            self._owner.on_blocks(self, message)
        elif isinstance(message, Claimed):
            if not (claimed := self._claims.pop(message.id)).done():
                claimed.set_result(message)
        elif isinstance(message, Progress):
            self._end_progress({request.id: request for request in message.requests})
        elif isinstance(message, Status):
            resumed = self.status.draining and not message.draining
            self.status = message
            if resumed:
                self._owner.on_resumed(self)
        elif isinstance(message, Welcome):
            self.connected, self.refusal = True, None
            self.status = msgspec.structs.replace(self.status, draining=False)
            self._owner.on_model(self, message.model)
        elif (
            self._chunk is not None
            and not self._chunk.done()
            and (message.digest, message.offset) == (self._fetch.digest, self._fetch.offset)
        ):
            self._chunk.set_result(message.data)

    def _on_step(self, step: Step, urgent: dict[Reader, None]) -> None:
        running = self._running
        for number, waited_s in step.started:
            if (begun := running.get(number)) is not None:
                begun.started = True
                if not begun.generated:
                    begun.queued_s = waited_s
        waiting = self._flushing.waiting
        # This loop runs once for each token of each stream.
        for number, token in zip(step.ids, step.tokens, strict=False):
            sequence = running.get(number)
            if sequence is None:
                # It was aborted, but the engine has not read the message yet.
                continue
            sequence.pending.append(token)
            answer = sequence.answer
            if not answer.touched:
                answer.touched = True
                waiting.append(answer)
        for delta in step.deltas:
            sequence = running.get(delta.id)
            if sequence is None:
                continue
            sequence.started = True
            if delta.token_ids and (delta.timing is not None or delta.coalesced):
                self._gaps.begin(sequence.gaps)
                sequence.begun_at = self._gaps.last
            if delta.finish_reason is not None:
                del running[delta.id]
                self._gaps.end(sequence.gaps)
            if self._deferred.takes(sequence, delta):
                self._deferred.add(sequence, delta)
            else:
                sequence.take(delta)
                urgent[sequence.answer] = None

    def _on_embeddings(self, message: Embeddings, urgent: dict[Reader, None]) -> None:
        for embedding in message.embeddings:
            if (sequence := self._running.pop(embedding.id, None)) is not None:
                sequence.vector = embedding.vector
                if sequence.ticket is not None:
                    sequence.ticket.finished()
                urgent[sequence.answer] = None

    def _on_failures(self, failures: Failures, urgent: dict[Reader, None]) -> None:
        for failure in failures.failures:
            if (sequence := self._running.pop(failure.id, None)) is not None:
                self._deferred.drop(sequence)
                sequence.take_failure(failure)
                urgent[sequence.answer] = None

    def _on_refused(self, message: Refused) -> None:
        self.refusal = message.reason
        log.error("the engine refused this frontend", reason=message.reason)
        self._lose(message.reason, refused=True)

    def _lose(self, reason: str, *, refused: bool = False, cut: bool = False) -> None:
        """Return all sequences to the owner, and reconnect under a new identity."""
        self.connected = False
        # The next engine must not get queued messages, whose sequences have left this table.
        self._dealer.close(drop=True)
        self._end_questions()
        self._flushing.flush()
        lost, self._running = list(self._running.values()), {}
        for sequence in lost:
            began, sequence.begun_at = sequence.begun_at, None
            sequence.proved = began is not None and self._gaps.last - began >= _PROVED_S
            self._gaps.interrupt(sequence.gaps)
            # What was not read is generated again.
            self._deferred.drop(sequence)
        self._loop.call_later(_RECONNECT_REFUSED_S if refused else _RECONNECT_S, self._reconnect)
        self._owner.on_lost(self, Loss(reason, lost, refused, cut))

    def _end_questions(self) -> None:
        while self._claims:
            if not (claimed := self._claims.popitem()[1]).done():
                claimed.set_result(None)
        self._end_progress({})
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_exception(_disconnected())

    def _end_progress(self, progress: dict[int, RequestProgress]) -> None:
        waiting, self._progress = self._progress, None
        if waiting is not None:
            waiting.set_result(progress)

    def _reconnect(self) -> None:
        if not self._closed:
            self._dealer = self._connect()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        fail_late(self._running, self._loop.time(), self.abort)


def _disconnected() -> EngineUnavailableError:
    return EngineUnavailableError("the engine is not connected", retry_after_s=1.0)
