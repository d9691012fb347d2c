"""A frontend's connection to the engine: submits, aborts, and hands steps to the answers.

Every sequence that was submitted ends exactly once: by its last delta, a failure, an abort, its
deadline, or the loss of the engine unless another one can go on with it (`resumption`). Nothing
here is done by a task per request or per token: a batch of steps is one callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vgate.errors import DeadlineExceededError, EngineUnavailableError, VGateError, from_code
from vgate.frontend.engines.resumption import Survivors, count_resumed, resubmission
from vgate.frontend.engines.sequence import Answer, Sequence
from vgate.log import Log
from vgate.wire.codec import WireError, decode_to_frontend, encode
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Embed,
    Embeddings,
    Ending,
    Failures,
    Generate,
    Goodbye,
    Hello,
    ModelInfo,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.sockets import AsyncDealer

_SWEEP_S = 0.25
_RECONNECT_S = 0.05
_RECONNECT_REFUSED_S = 1.0

log = Log("vgate.frontend")


class EngineClient:
    """See the module. Used from the event loop only.

    Args:
        loop: The event loop.
        endpoint: Where the engine listens.
        name: This frontend's name, for the engine's log.
        on_model: Called with the model at every connection.
        on_lost: Called when the engine is gone, before its sequences end.
        survivors: Where sequences wait for the next engine.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        name: str,
        *,
        on_model: Callable[[ModelInfo], None],
        on_lost: Callable[[], None],
        survivors: Survivors,
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._name = name
        self._on_model = on_model
        self._on_lost = on_lost
        self._survivors = survivors
        self._running: dict[int, Sequence] = {}
        self._last_id = 0
        self._connected = False
        self._closed = False
        self._refusal: str | None = None
        self.status = Status(0, 0, 0.0)
        self._dealer = self._connect()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """Sequences that have not ended."""
        return len(self._running) + len(self._survivors.waiting)

    @property
    def connected(self) -> bool:
        """Whether an engine has welcomed us and is still there."""
        return self._connected

    @property
    def refusal(self) -> str | None:
        """Why the engine does not talk to us, if it said so."""
        return self._refusal

    def next_id(self) -> int:
        """Return a number for a sequence, never used before on this connection or another."""
        self._last_id += 1
        return self._last_id

    def submit(self, sequence: Sequence, message: Generate | Embed, timeout_s: float) -> None:
        """Start a sequence.

        Args:
            sequence: Gets what comes for it.
            message: What to run; its id is from `next_id`.
            timeout_s: Longest time to its end.

        Raises:
            EngineUnavailableError: No engine is connected.
        """
        if not self._connected:
            reason = "the engine is not connected"
            raise EngineUnavailableError(reason, retry_after_s=1.0)
        sequence.deadline = self._loop.time() + timeout_s
        self._start(sequence, message)

    def _start(self, sequence: Sequence, message: Generate | Embed) -> None:
        sequence.id = message.id
        sequence.message = message
        self._running[sequence.id] = sequence
        self._dealer.send(encode(message))

    def abort(self, sequences: list[Sequence]) -> None:
        """Stop sequences that still run or wait to; nothing more comes for them."""
        self._survivors.discard(sequences)
        ids = [s.id for s in sequences if self._running.pop(s.id, None) is not None]
        if ids and self._connected:
            self._dealer.send(encode(Abort(ids)))

    def fail_all(self, error: VGateError) -> None:
        """End every sequence with `error` and stop it in the engine."""
        sequences = [*self._survivors.waiting.values(), *self._running.values()]
        self.abort(sequences)
        self._end(sequences, lambda: error)

    def fail_waiting(self, error: VGateError) -> None:
        """Have nothing wait for another engine any more; end what does with `error`."""
        self._end(self._survivors.close(), lambda: error)

    def close(self) -> None:
        """Leave the engine."""
        self._closed = True
        self._sweeper.cancel()
        if self._connected:
            self._dealer.send(encode(Goodbye()))
        self._dealer.close()

    def _connect(self) -> AsyncDealer:
        dealer = AsyncDealer(
            self._loop,
            self._endpoint,
            self._name,
            on_batch=self._on_batch,
            on_lost=self._on_connection_lost,
        )
        dealer.send(encode(Hello(PROTOCOL_VERSION, self._name)))
        return dealer

    def _on_batch(self, batch: list[bytes]) -> None:
        touched: list[Answer] = []
        ending: str | None = None
        for payload in batch:
            try:
                message = decode_to_frontend(payload)
            except WireError as error:
                log.error("dropped a malformed message from the engine", error=error)
                continue
            if type(message) is Step:
                self._on_step(message, touched)
            elif type(message) is Status:
                self.status = message
            elif type(message) is Embeddings:
                self._on_embeddings(message, touched)
            elif type(message) is Failures:
                self._on_failures(message, touched)
            elif type(message) is Welcome:
                self._on_welcome(message.model)
            elif type(message) is Ending:
                ending = message.reason
                break
            elif type(message) is Refused:
                # The connection is given up with it, and what else it brought.
                self._on_refused(message)
                break
        for answer in touched:
            answer.touched = False
            answer.flush()
        if ending is not None:
            # After the answers have taken what came before it.
            self._lose(f"the engine stopped: {ending}", _RECONNECT_S)

    def _on_welcome(self, model: ModelInfo) -> None:
        self._connected = True
        self._refusal = None
        self._on_model(model)
        same, waiting = self._survivors.is_same(model), self._survivors.take()
        if not waiting:
            return
        if not same:
            message = "the engine stopped while it worked on this request, and serves another model"
            self._end(waiting, lambda: EngineUnavailableError(message, retry_after_s=1.0))
            return
        # Before all requests to come, so the table stays in the order of deadlines.
        for sequence in waiting:
            self._start(sequence, resubmission(sequence, self.next_id()))
        count_resumed(waiting)
        log.info("engine is back", resubmitted=len(waiting))

    def _on_step(self, step: Step, touched: list[Answer]) -> None:
        running = self._running
        # This loop runs once for every token of every stream.
        for number, token in zip(step.ids, step.tokens, strict=False):
            sequence = running.get(number)
            if sequence is None:
                # Aborted, and the abort is still on its way.
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
            sequence.pending += delta.token_ids
            # Of a sequence that goes on, the first engine has told.
            if delta.cached_tokens and not sequence.generated:
                sequence.cached_tokens = delta.cached_tokens
            if delta.joined:
                sequence.joined = True
            if delta.logprobs is not None:
                sequence.logprobs += delta.logprobs
            if delta.prompt_logprobs is not None:
                sequence.prompt_logprobs = delta.prompt_logprobs
            if delta.finish_reason is not None:
                sequence.finish_reason = delta.finish_reason
                del running[delta.id]
            _touch(sequence.answer, touched)

    def _on_embeddings(self, message: Embeddings, touched: list[Answer]) -> None:
        for embedding in message.embeddings:
            sequence = self._running.pop(embedding.id, None)
            if sequence is not None:
                sequence.vector = embedding.vector
                _touch(sequence.answer, touched)

    def _on_failures(self, failures: Failures, touched: list[Answer]) -> None:
        for failure in failures.failures:
            sequence = self._running.pop(failure.id, None)
            if sequence is None:
                continue
            sequence.error = from_code(
                failure.code, failure.message, failure.retry_after_s, failure.param
            )
            _touch(sequence.answer, touched)

    def _on_refused(self, message: Refused) -> None:
        self._refusal = message.reason
        log.error("the engine refused this frontend", reason=message.reason)
        # The engine lives and has nothing of ours, or never will have.
        self._lose(message.reason, _RECONNECT_REFUSED_S, refused=True)

    def _on_connection_lost(self) -> None:
        self._lose("the engine stopped", _RECONNECT_S)

    def _lose(self, reason: str, reconnect_s: float, *, refused: bool = False) -> None:
        """End every sequence that can't go on, and begin a new connection, under a new identity."""
        was_connected, self._connected = self._connected, False
        # What waits in the old socket must not reach the next engine: nobody here would know of it.
        self._dealer.close(drop=True)
        had = self.in_flight
        lost, self._running = list(self._running.values()), {}
        ended = [*self._survivors.take(), *lost] if refused else self._survivors.keep(lost)
        self._on_lost()
        message = f"{reason} while it worked on this request; try again"
        # An answer of several that loses one takes its others out of the waiting ones.
        self._end(ended, lambda: EngineUnavailableError(message, retry_after_s=5.0))
        if was_connected:
            going_on = len(self._survivors.waiting)
            log.warning("lost the engine", reason=reason, going_on=going_on, ended=had - going_on)
        self._loop.call_later(reconnect_s, self._reconnect)

    def _reconnect(self) -> None:
        if not self._closed:
            self._dealer = self._connect()

    def _sweep(self) -> None:
        """End the sequences whose deadline has passed."""
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        now = self._loop.time()
        late = []
        for table in (self._survivors.waiting, self._running):
            for sequence in table.values():
                # All requests get the same time, so they are in the order of their deadlines.
                if sequence.deadline > now:
                    break
                late.append(sequence)
        if not late:
            return
        self.abort(late)
        message = "the request took longer than timeouts.request_s allows"
        self._end(late, lambda: DeadlineExceededError(message))

    @staticmethod
    def _end(sequences: list[Sequence], make_error: Callable[[], VGateError]) -> None:
        """End sequences that are out of the table; an answer hears of it once."""
        answers: dict[int, Answer] = {}
        for sequence in sequences:
            sequence.error = make_error()
            answers[id(sequence.answer)] = sequence.answer
        for answer in answers.values():
            answer.flush()


def _touch(answer: Answer, touched: list[Answer]) -> None:
    if not answer.touched:
        answer.touched = True
        touched.append(answer)
