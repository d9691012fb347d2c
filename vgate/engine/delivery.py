"""Which frontends get the output of which request, in one message for each per step. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vgate.engine.backends.base import Facts, Output, Outputs
from vgate.engine.request import Request, RequestError, Subscriber
from vgate.wire.codec import WireError
from vgate.wire.messages import (
    Delta,
    Embedding,
    Embeddings,
    Failure,
    Failures,
    FinishReason,
    Generate,
    ModelInfo,
    Step,
)
from vgate.wire.progress import Progress, RequestProgress, Timing

# Log probabilities that a request may get at once by joining another: a frontend that had to read
# all of many such requests would do nothing else meanwhile.
_MOST_LOGPROBS = 256


class Subscriptions:
    """The requests in the engine by subscriber: coalesced ones are one with several."""

    def __init__(self) -> None:
        self._requests: dict[Subscriber, Request] = {}
        self._by_dedup_key: dict[bytes, Request] = {}

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._requests

    def find(self, message: Generate) -> Request | None:
        """Return the request in flight that this one is to join, if there is one."""
        request = self._by_dedup_key.get(message.dedup_key) if message.dedup_key else None
        if request is None or message.options.logprobs is None:
            return request
        # The next ones join this one then.
        return request if request.generated_tokens <= _MOST_LOGPROBS else None

    def add(self, request: Request, subscriber: Subscriber) -> None:
        """Add a subscriber to a request."""
        request.subscribers.append(subscriber)
        self._requests[subscriber] = request
        if request.dedup_key:
            self._by_dedup_key[request.dedup_key] = request

    def leave(self, subscriber: Subscriber) -> Request | None:
        """Remove a subscriber from a request that goes on even without any; return the request."""
        request = self._requests.pop(subscriber, None)
        if request is not None:
            request.subscribers.remove(subscriber)
        return request

    def remove(self, subscriber: Subscriber) -> Request | None:
        """Remove a subscriber; return its request if that has no other one left."""
        request = self.leave(subscriber)
        if request is None or request.subscribers:
            return None
        self.forget(request)
        return request

    def end(self, request: Request) -> list[Subscriber]:
        """Remove a request that has ended; return its subscribers."""
        subscribers, request.subscribers = request.subscribers, []
        for subscriber in subscribers:
            del self._requests[subscriber]
        self.forget(request)
        return subscribers

    def of_peer(self, peer: bytes) -> list[Subscriber]:
        """Return the subscribers of a frontend."""
        return [subscriber for subscriber in self._requests if subscriber[0] == peer]

    def progress(self, peer: bytes, running: Mapping[str, Request]) -> Progress:
        """Return how far a frontend's requests are."""
        return Progress(
            [
                RequestProgress(number, request.key in running, request.generated_tokens)
                for (subscriber, number), request in self._requests.items()
                if subscriber == peer
            ]
        )

    def forget(self, request: Request) -> None:
        """Let no other request join this one."""
        if self._by_dedup_key.get(request.dedup_key) is request:
            del self._by_dedup_key[request.dedup_key]


class PendingFailures:
    """The failures of a turn; each frontend gets its own in one message."""

    def __init__(self) -> None:
        self._failures: dict[bytes, list[Failure]] = {}

    def add(self, notices: Iterable[tuple[Subscriber, RequestError | WireError]]) -> None:
        """Add the error with which a subscription has ended, for each of some."""
        for (peer, number), error in notices:
            if isinstance(error, WireError):
                error = RequestError("internal_error", str(error))  # noqa: PLW2901
            failure = Failure(number, error.code, error.reason, error.retry_after_s, error.subject)
            self._failures.setdefault(peer, []).append(failure)

    def forget(self, peer: bytes) -> None:
        """Drop those of a frontend that is gone."""
        self._failures.pop(peer, None)

    def take(self) -> Iterator[tuple[bytes, Failures]]:
        """Remove and yield all, by frontend."""
        while self._failures:
            peer, failures = self._failures.popitem()
            yield peer, Failures(failures)


class PendingStarts:
    """The requests that have started since the last step; each frontend hears of its own."""

    def __init__(self) -> None:
        self._starts: dict[bytes, list[tuple[int, float]]] = {}

    def add(self, request: Request, waited_s: float) -> None:
        """Add a request for those who wait for it now."""
        for peer, number in request.subscribers:
            self._starts.setdefault(peer, []).append((number, waited_s))

    def take_with(
        self, messages: Mapping[bytes, Step | Embeddings]
    ) -> Iterator[tuple[bytes, Step | Embeddings]]:
        """Remove all and yield them by frontend, in a step's messages where there is one."""
        starts, self._starts = self._starts, {}
        for peer, started in starts.items():
            step = messages.get(peer)
            if isinstance(step, Step):
                step.started.extend(started)
            else:
                yield peer, Step(started=started)
        yield from messages.items()


class Delivery(NamedTuple):
    """What to do after a step: messages by frontend, complete requests, and failed ones.

    `prefills_s`: How long each of the requests that got their first tokens took for it.
    """

    messages: Mapping[bytes, Step | Embeddings]
    finished: list[Request]
    failed: list[tuple[Request, RequestError]]
    prefills_s: list[float]


def deliver(
    model: ModelInfo, outputs: Iterable[Output], running: Mapping[str, Request], now: float
) -> Delivery:
    """Make the messages for a step of a model; outputs of requests that don't run are dropped."""
    if model.task != "generate":
        return deliver_embeddings(outputs, running)
    return deliver_tokens(outputs, running, now)


def deliver_tokens(
    outputs: Iterable[Output], running: Mapping[str, Request], now: float
) -> Delivery:
    """Make the messages for a step's tokens; outputs of requests that don't run are dropped."""
    by_peer: dict[bytes, Step] = {}
    delivery = Delivery(by_peer, [], [], [])
    if isinstance(outputs, Outputs):
        outputs = _deliver_plain(outputs, running, by_peer)
    for output in outputs:
        key, token_ids, finish_reason, facts, _, error, logprobs, of_prompt = output
        request = running.get(key)
        if request is None:
            continue
        if error is not None:
            delivery.failed.append((request, error))
            continue
        if facts is not None:
            _note(facts, finish_reason, request, now, delivery)
        count = len(token_ids)
        request.generated_tokens += count
        delivered = request.delivered
        if delivered or request.dedup_key:
            _keep(request, output)
        plain = count == 1 and facts is None and logprobs is None and of_prompt is None
        for peer, number in request.subscribers:
            step = by_peer.get(peer)
            if step is None:
                step = by_peer[peer] = Step([], [], [])
            if delivered and (peer, number) in delivered:
                # Buffered: the first tokens, and the rest with the last one.
                if finish_reason is not None or not delivered[peer, number]:
                    step.deltas.append(_undelivered(request, (peer, number), finish_reason))
            elif plain:
                step.ids.append(number)
                step.tokens.append(token_ids[0])
            else:
                cached, timing = (0, None) if facts is None else (facts[0], request.timing)
                step.deltas.append(
                    Delta(
                        number, token_ids, finish_reason, cached, False, logprobs, of_prompt, timing
                    )
                )
    messages = {peer: step for peer, step in by_peer.items() if step.ids or step.deltas}
    return delivery._replace(messages=messages)


def _deliver_plain(
    outputs: Outputs, running: Mapping[str, Request], by_peer: dict[bytes, Step]
) -> list[Output]:
    """Add plain outputs to the messages; return the outputs that are left.

    These are all others, and those of requests that have a subscriber who doesn't get each token as
    it comes.
    """
    left = outputs.others.copy()
    # This loop runs once for every token that the engine generates.
    for key, token in zip(outputs.keys, outputs.tokens, strict=True):
        request = running.get(key)
        if request is None:
            continue
        if request.delivered:
            left.append(Output(key, [token], None, None))
            continue
        request.generated_tokens += 1
        if request.dedup_key:
            request.output.append(token)
        for peer, number in request.subscribers:
            step = by_peer.get(peer)
            if step is None:
                step = by_peer[peer] = Step([], [], [])
            step.ids.append(number)
            step.tokens.append(token)
    return left


def deliver_embeddings(outputs: Iterable[Output], running: Mapping[str, Request]) -> Delivery:
    """Make the messages for a step's embeddings or classes; otherwise as `deliver_tokens`."""
    by_peer: dict[bytes, list[Embedding]] = {}
    finished: list[Request] = []
    failed: list[tuple[Request, RequestError]] = []
    for output in outputs:
        request = running.get(output.key)
        if request is None:
            continue
        if output.error is not None:
            failed.append((request, output.error))
        elif output.vector is not None:
            for peer, number in request.subscribers:
                by_peer.setdefault(peer, []).append(Embedding(number, output.vector))
            finished.append(request)
    messages = {peer: Embeddings(embeddings) for peer, embeddings in by_peer.items()}
    return Delivery(messages, finished, failed, [])


def catch_up(
    request: Request, subscriber: Subscriber, *, buffered: bool = False, coalesced: bool = True
) -> Delta:
    """Return the first delta of a subscriber that joins a request: the output so far.

    A `buffered` one gets its next delta at the end.
    """
    if buffered:
        request.delivered[subscriber] = 0
    return _undelivered(request, subscriber, request.finish_reason, coalesced=coalesced)


def _undelivered(
    request: Request,
    subscriber: Subscriber,
    finish_reason: FinishReason | None,
    *,
    coalesced: bool = False,
) -> Delta:
    """Return the output that a subscriber has not got; if it is buffered, count it as sent."""
    sent, logprobs = request.delivered.get(subscriber, 0), request.output_logprobs
    if subscriber in request.delivered:
        request.delivered[subscriber] = len(request.output)
    return Delta(
        subscriber[1],
        request.output[sent:],
        finish_reason,
        0 if sent else request.cached_tokens,
        coalesced=coalesced,
        logprobs=None if logprobs is None else logprobs[sent:],
        prompt_logprobs=None if sent else request.prompt_logprobs,
        timing=None if coalesced else request.timing,
    )


def _note(
    facts: Facts,
    finish_reason: FinishReason | None,
    request: Request,
    now: float,
    delivery: Delivery,
) -> None:
    """Note what a backend tells of a request with its first tokens and at its end."""
    request.cached_tokens = request.cached_tokens or facts.cached_tokens
    if request.timing is None:
        request.timing = Timing(now - request.started)
        delivery.prefills_s.append(request.timing.prefill_s)
    if facts.preemptions:
        request.timing = Timing(request.timing.prefill_s, facts.preemptions)
    if finish_reason is not None:
        request.finish_reason = finish_reason
        delivery.finished.append(request)


def _keep(request: Request, output: Output) -> None:
    """Keep an output for subscribers that get it later."""
    request.output += output.token_ids
    if output.logprobs is not None:
        if request.output_logprobs is None:
            request.output_logprobs = []
        request.output_logprobs += output.logprobs
    if output.prompt_logprobs is not None:
        request.prompt_logprobs = output.prompt_logprobs
