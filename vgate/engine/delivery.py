"""From what a backend's step brought to one message for each frontend. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vgate.engine.backends.base import Output
from vgate.engine.request import Request, RequestError
from vgate.engine.subscriptions import Subscriber
from vgate.wire.messages import (
    Delta,
    Embedding,
    Embeddings,
    Failure,
    Failures,
    FinishReason,
    Logprobs,
    Step,
)


class Delivery(NamedTuple):
    """What a step brought.

    Attributes:
        messages: What to send, by frontend.
        finished: Requests that have come to their end.
        failed: Requests that the backend gave up, and why.
    """

    messages: Mapping[bytes, Step | Embeddings]
    finished: list[Request]
    failed: list[tuple[Request, RequestError]]


def deliver_tokens(outputs: Iterable[Output], running: Mapping[str, Request]) -> Delivery:
    """Hand out new tokens, and keep those of shared requests for who may still join.

    Args:
        outputs: Of one step.
        running: The requests in the batch by key; outputs of others are dropped.
    """
    by_peer: dict[bytes, Step] = {}
    finished: list[Request] = []
    failed: list[tuple[Request, RequestError]] = []
    # This loop runs once for every token that the engine generates.
    for key, token_ids, finish_reason, cached_tokens, _, error, logprobs, of_prompt in outputs:
        request = running.get(key)
        if request is None:
            continue
        if error is not None:
            failed.append((request, error))
            continue
        count = len(token_ids)
        request.generated_tokens += count
        told = request.told
        if told or request.share:
            _keep(request, token_ids, cached_tokens, logprobs, of_prompt)
        if finish_reason is not None:
            finished.append(request)
        plain = (
            count == 1
            and finish_reason is None
            and not cached_tokens
            and logprobs is None
            and of_prompt is None
        )
        for peer, number in request.subscribers:
            step = by_peer.get(peer)
            if step is None:
                step = by_peer[peer] = Step([], [], [])
            if told and (peer, number) in told:
                if finish_reason is not None or not told[peer, number]:
                    step.deltas.append(_untold(request, (peer, number), finish_reason))
            elif plain:
                step.ids.append(number)
                step.tokens.append(token_ids[0])
            else:
                step.deltas.append(
                    Delta(
                        number,
                        token_ids,
                        finish_reason,
                        cached_tokens,
                        logprobs=logprobs,
                        prompt_logprobs=of_prompt,
                    )
                )
    messages = {peer: step for peer, step in by_peer.items() if step.ids or step.deltas}
    return Delivery(messages, finished, failed)


def deliver_embeddings(outputs: Iterable[Output], running: Mapping[str, Request]) -> Delivery:
    """Hand out vectors; otherwise as `deliver_tokens`."""
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
    return Delivery(messages, finished, failed)


def catch_up(request: Request, subscriber: Subscriber, *, whole: bool) -> Delta:
    """Return the first delta of one who joins a shared request: all that there is so far.

    Args:
        request: What they join.
        subscriber: Who.
        whole: They want no more of it until its end.
    """
    if whole:
        request.told[subscriber] = len(request.output)
    _, number = subscriber
    logprobs = request.output_logprobs
    return Delta(
        number,
        list(request.output),
        None,
        request.cached_tokens,
        joined=True,
        logprobs=None if logprobs is None else list(logprobs),
        prompt_logprobs=request.prompt_logprobs,
    )


class PendingFailures:
    """Failures of one turn, until they are sent: one message for each frontend."""

    def __init__(self) -> None:
        self._by_peer: dict[bytes, list[Failure]] = {}

    def add(self, subscriber: Subscriber, error: RequestError) -> None:
        """Note that one who waits gets an error instead."""
        peer, number = subscriber
        failure = Failure(number, error.code, error.reason, error.retry_after_s, error.subject)
        self._by_peer.setdefault(peer, []).append(failure)

    def forget(self, peer: bytes) -> None:
        """Drop what was for a frontend that is gone."""
        self._by_peer.pop(peer, None)

    def take(self) -> dict[bytes, Failures]:
        """Return the messages, and begin anew."""
        if not self._by_peer:
            return {}
        by_peer, self._by_peer = self._by_peer, {}
        return {peer: Failures(failures) for peer, failures in by_peer.items()}


def _untold(request: Request, subscriber: Subscriber, finish_reason: FinishReason | None) -> Delta:
    """Return what one who wants the request whole has not been told."""
    told, logprobs = request.told[subscriber], request.output_logprobs
    request.told[subscriber] = len(request.output)
    return Delta(
        subscriber[1],
        request.output[told:],
        finish_reason,
        0 if told else request.cached_tokens,
        logprobs=None if logprobs is None else logprobs[told:],
        prompt_logprobs=None if told else request.prompt_logprobs,
    )


def _keep(
    request: Request,
    token_ids: list[int],
    cached_tokens: int,
    logprobs: list[Logprobs] | None,
    prompt_logprobs: list[Logprobs | None] | None,
) -> None:
    """Remember a request's output."""
    request.output += token_ids
    request.cached_tokens = request.cached_tokens or cached_tokens
    if logprobs is not None:
        if request.output_logprobs is None:
            request.output_logprobs = []
        request.output_logprobs += logprobs
    if prompt_logprobs is not None:
        request.prompt_logprobs = prompt_logprobs
