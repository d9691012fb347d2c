"""The `EngineHandle` over ZeroMQ: sends requests and aborts, and passes steps to the answers.

It starts no task for a request or a token: one callback handles a batch of messages.
"""

import asyncio
from collections.abc import Mapping

import msgspec

from vgate.errors import EngineUnavailableError, VGateError, from_code
from vgate.frontend.engines.handle import HandleOwner, Loss
from vgate.frontend.engines.sequence import SWEEP_S, Reader, Sequence, fail, fail_late
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_frontend, encode
from vgate.wire.kept import Claim, Claimed
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Embed,
    Embeddings,
    Ending,
    Failure,
    Failures,
    FetchFile,
    FileChunk,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.sockets import AsyncDealer

_RECONNECT_S = 0.05
_RECONNECT_REFUSED_S = 1.0
# The request field of a failure's subject. Those of "prompt" and "constraint" depend on the API;
# every other subject has the field's name.
_FIELDS = {"adapter": "model"}

log = Log("vgate.frontend")


class EngineClient:
    """A connection to one engine. Used from the event loop only.

    Args:
        loop: The event loop.
        endpoint: The engine's ZeroMQ endpoint.
        name: This frontend's name, for the engine's log.
        owner: Called when an engine is connected or lost.

    Attributes:
        connected: Whether the engine has welcomed this frontend and is not lost.
        refusal: Why the engine refuses this frontend; None if it doesn't.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: str, name: str, owner: HandleOwner
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._name = name
        self._owner = owner
        self._running: dict[int, Sequence] = {}
        # The last request for a file's chunk, and the future that its chunk completes.
        self._fetch = FetchFile(b"", 0)
        self._chunk: asyncio.Future[bytes] | None = None
        self._last_claim = 0
        self._claims: dict[int, asyncio.Future[Claimed | None]] = {}
        self.connected = False
        self.refusal: str | None = None
        self._closed = False
        self.status = Status(0, 0, 0.0)
        self._dealer = self._connect()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """The number of sequences that have not ended."""
        return len(self._running)

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        """Start a sequence."""
        sequence.deadline = self._loop.time() + timeout_s
        sequence.id = message.id
        sequence.message = message
        self._running[message.id] = sequence
        self._dealer.send(encode(message))

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop the sequences that run here, without an end."""
        ids = [s.id for s in sequences if self._running.pop(s.id, None) is not None]
        if ids and self.connected:
            self._dealer.send(encode(Abort(ids)))

    def fail_all(self, error: VGateError) -> None:
        """Stop every sequence and end it with `error`; one that is kept goes on in the engine."""
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

    async def read_file(self, digest: bytes, offset: int) -> bytes:
        """Return a chunk of one of the model's files."""
        if not self.connected:
            raise _disconnected()
        self._fetch = FetchFile(digest, offset)
        self._chunk = self._loop.create_future()
        self._dealer.send(encode(self._fetch))
        return await self._chunk

    def close(self) -> None:
        """Disconnect from the engine."""
        self._closed = True
        self._sweeper.cancel()
        if self.connected:
            self._dealer.send(encode(Goodbye()))
        self._dealer.close()

    def _connect(self) -> AsyncDealer:
        dealer = AsyncDealer(
            self._loop,
            self._endpoint,
            self._name,
            on_batch=self._on_batch,
            on_lost=lambda: self._lose("the engine stopped"),
        )
        dealer.send(encode(Hello(PROTOCOL_VERSION, self._name)))
        return dealer

    def _on_batch(self, batch: list[bytes]) -> None:
        touched: list[Reader] = []
        ending: str | None = None
        for payload in batch:
            try:
                message = decode_to_frontend(payload)
            except WireError as error:
                log.error("dropped a malformed message from the engine", error=error)
                continue
            if type(message) is Step:
                self._on_step(message, touched)
            elif type(message) is Embeddings:
                self._on_embeddings(message, touched)
            elif type(message) is Failures:
                self._on_failures(message, touched)
            elif type(message) is Ending:
                ending = message.reason
                break
            elif type(message) is Refused:
                # This closes the connection, so the remaining messages don't count.
                self._on_refused(message)
                break
            else:
                self._on_other(message)
        for answer in touched:
            answer.touched = False
            answer.flush()
        if ending is not None:
            # Only now: the answers have read the messages before it.
            self._lose(f"the engine stopped: {ending}")

    def _on_other(self, message: Welcome | FileChunk | Claimed | Status) -> None:
        if isinstance(message, Claimed):
            if not (claimed := self._claims.pop(message.id)).done():
                claimed.set_result(message)
        elif isinstance(message, Status):
            self.status = message
        elif isinstance(message, Welcome):
            self.connected, self.refusal = True, None
            self._owner.on_model(self, message.model)
        elif (
            self._chunk is not None
            and not self._chunk.done()
            and (message.digest, message.offset) == (self._fetch.digest, self._fetch.offset)
        ):
            self._chunk.set_result(message.data)

    def _on_step(self, step: Step, touched: list[Reader]) -> None:
        running = self._running
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
                touched.append(answer)
        for delta in step.deltas:
            sequence = running.get(delta.id)
            if sequence is None:
                continue
            sequence.started = True
            sequence.pending += delta.token_ids
            # A resumed sequence keeps the count of its first engine.
            if delta.cached_tokens and not sequence.generated:
                sequence.cached_tokens = delta.cached_tokens
            if delta.coalesced:
                sequence.coalesced = True
            if delta.logprobs is not None:
                sequence.logprobs += delta.logprobs
            if delta.prompt_logprobs is not None:
                sequence.prompt_logprobs = delta.prompt_logprobs
            if delta.finish_reason is not None:
                sequence.finish_reason = delta.finish_reason
                del running[delta.id]
            _touch(sequence.answer, touched)

    def _on_embeddings(self, message: Embeddings, touched: list[Reader]) -> None:
        for embedding in message.embeddings:
            if (sequence := self._running.pop(embedding.id, None)) is not None:
                sequence.vector = embedding.vector
                _touch(sequence.answer, touched)

    def _on_failures(self, failures: Failures, touched: list[Reader]) -> None:
        for failure in failures.failures:
            if (sequence := self._running.pop(failure.id, None)) is not None:
                sequence.error = to_error(failure, sequence.fields)
                _touch(sequence.answer, touched)

    def _on_refused(self, message: Refused) -> None:
        self.refusal = message.reason
        log.error("the engine refused this frontend", reason=message.reason)
        # The engine is alive, but runs nothing for this frontend.
        self._lose(message.reason, refused=True)

    def _lose(self, reason: str, *, refused: bool = False) -> None:
        """Return all sequences to the owner, and reconnect under a new identity."""
        self.connected = False
        self.status = msgspec.structs.replace(self.status, draining=False)
        # The next engine must not get queued messages, whose sequences have left this table.
        self._dealer.close(drop=True)
        while self._claims:
            if not (claimed := self._claims.popitem()[1]).done():
                claimed.set_result(None)
        lost, self._running = list(self._running.values()), {}
        if self._chunk is not None and not self._chunk.done():
            self._chunk.set_exception(_disconnected())
        self._loop.call_later(_RECONNECT_REFUSED_S if refused else _RECONNECT_S, self._reconnect)
        self._owner.on_lost(self, Loss(reason, lost, refused))

    def _reconnect(self) -> None:
        if not self._closed:
            self._dealer = self._connect()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        fail_late(self._running, self._loop.time(), self.abort)


def _touch(answer: Reader, touched: list[Reader]) -> None:
    if not answer.touched:
        answer.touched = True
        touched.append(answer)


def _disconnected() -> EngineUnavailableError:
    return EngineUnavailableError("the engine is not connected", retry_after_s=1.0)


def to_error(failure: Failure, fields: Mapping[str, str]) -> VGateError:
    """Return the error that a client gets for an engine's failure.

    Args:
        failure: The engine's failure.
        fields: The request's fields for the subjects "prompt" and "constraint".
    """
    subject, message, param = failure.subject, failure.reason, None
    if subject is not None:
        param = fields.get(subject) or _FIELDS.get(subject, subject)
        message = f"`{param}`: {message}"
    return from_code(failure.code, message, failure.retry_after_s, param)
