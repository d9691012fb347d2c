"""What every generating endpoint does between a checked request and its answer.

Cache, limits, submission, waiting, storing, recording, sending: the same for all of them. Endpoints
only translate their own request into a `Job`, and an answer into their own response.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

import msgspec

from vgate.frontend.answers.answer import Answer, StreamedAnswer, WholeAnswer, replay
from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.answers.encoder import StreamEncoder
from vgate.frontend.answers.result import Result
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.disconnects import ClientDisconnected
from vgate.frontend.http.request import EVENT_STREAM, JSON, HttpRequest, OpenStream, Response
from vgate.frontend.observe import metrics
from vgate.frontend.services import Services
from vgate.frontend.text.model import TextModel
from vgate.wire.messages import NO_OPTIONS, Generate, GenerateOptions
from vgate.wire.sampling import SamplingParams, nth_seed

CACHE_HEADER = "x-vgate-cache"
_STREAM_HEADERS = [EVENT_STREAM, ("cache-control", "no-cache"), ("x-accel-buffering", "no")]


class Prompt(msgspec.Struct, frozen=True):
    """A tokenised prompt: its ids, and the same as the engine gets them."""

    token_ids: list[int]
    packed: bytes


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is checked and tokenised.

    Attributes:
        model, text: What it goes to, and its text side.
        name: The name under which the model is asked: its own, or an adapter's.
        prompts: One, or several that are answered together.
        choices_each: Answers to each prompt.
        sampling, options, priority: Complete parameters.
        reading: How the tokens are read.
        digest: Of everything that shapes the answer; b"" if it is neither cached nor shared.
        read_cache, write_cache: What the client's Cache-Control allows.
        arrived: Monotonic time of the request's arrival.
    """

    model: ServedModel
    text: TextModel
    name: str
    prompts: list[Prompt]
    choices_each: int
    sampling: SamplingParams
    decoding: DecodeOptions
    digest: bytes
    read_cache: bool
    write_cache: bool
    arrived: float
    options: GenerateOptions = NO_OPTIONS
    priority: int = 0

    @property
    def prompt_tokens(self) -> list[int]:
        """Lengths of the prompts."""
        return [len(prompt.token_ids) for prompt in self.prompts]

    def prompt_of(self, index: int) -> Prompt:
        """Return the prompt of a choice."""
        return self.prompts[index // self.choices_each]

    def make_choice(self, sequence: Sequence) -> Choice:
        """Make the choice that reads a sequence."""
        return Choice(
            sequence,
            self.prompt_of(sequence.index).token_ids,
            self.decoding,
            logprobs=self.options.logprobs is not None,
        )


class ResponseEncoder(Protocol):
    """How an API says an answer."""

    def stream_encoder(self) -> StreamEncoder:
        """Return what streams one answer."""

    def whole(self, answer: Result) -> bytes:
        """Return the body of an answer that is not streamed."""


async def serve(
    services: Services,
    http: HttpRequest,
    job: Job,
    encoder: ResponseEncoder,
    *,
    stream: bool,
) -> Response | None:
    """Answer a job; None if the answer was streamed.

    Args:
        services: The services of this process.
        http: The request.
        job: What it asks.
        encoder: How its API says answers.
        stream: Whether to stream.

    Raises:
        ClientDisconnected: Nobody waits for the answer any more.
        VGateError: There is no answer, and the client has got nothing yet.
    """
    found = await _look_up(services, http, job)
    if stream:
        await _stream(services, http, job, encoder.stream_encoder(), found)
        return None
    if found is None:
        answer = WholeAnswer(
            services.loop,
            job.make_choice,
            job.prompt_tokens,
            job.choices_each,
            job.model.engine.abort,
        )
        found = await _run(services, http, job, answer)
        _note_sharing(http, answer, job)
    return Response(200, encoder.whole(found), [JSON])


async def _stream(
    services: Services,
    http: HttpRequest,
    job: Job,
    stream_encoder: StreamEncoder,
    found: Result | None,
) -> None:
    if found is not None:
        http.open_stream(_STREAM_HEADERS).write(replay(stream_encoder, found))
        return
    answer = StreamedAnswer(
        services.loop,
        job.make_choice,
        job.prompt_tokens,
        job.choices_each,
        job.model.engine.abort,
        stream_encoder=stream_encoder,
        # Without naming the answer, which would hold itself.
        open_stream=partial(_open, http, job),
    )
    try:
        await _run(services, http, job, answer)
    except ClientDisconnected:
        raise
    except Exception as error:
        if not answer.started:
            raise
        # The client has its status; the error went into the stream.
        http.log_fields["error"] = getattr(error, "code", type(error).__name__)


def _open(http: HttpRequest, job: Job, answer: StreamedAnswer) -> OpenStream:
    _note_sharing(http, answer, job)
    return http.open_stream(_STREAM_HEADERS)


def cache_directives(http: HttpRequest) -> tuple[bool, bool]:
    """Return whether a stored answer may be used and this one stored (RFC 9111, 5.2.1).

    ``no-cache`` asks for a new answer, ``no-store`` for one that isn't kept either.
    """
    header = http.header("cache-control")
    if header is None:
        return True, True
    directives = {part.strip().lower() for part in header.split(",")}
    no_store = "no-store" in directives
    return not (no_store or "no-cache" in directives), not no_store


async def _look_up(services: Services, http: HttpRequest, job: Job) -> Result | None:
    """Return the stored answer to a job, if there is one and the client takes it."""
    if not (job.digest and job.read_cache):
        _note_cache(http, "bypass")
        return None
    found = await services.cache.get(job.digest)
    if found is None:
        metrics.CACHE_MISSES.inc()
        return None
    await http.admission.count()
    metrics.CACHE_HITS.inc()
    _note_cache(http, "hit")
    http.log_fields["prompt_tokens"] = found.counts.prompt
    http.log_fields["completion_tokens"] = found.counts.completion
    return found


def _note_cache(http: HttpRequest, outcome: str) -> None:
    """Tell the client and the log how the answer relates to the cache."""
    http.set_header(CACHE_HEADER, outcome)
    http.log_fields["cache"] = outcome


def _note_sharing(http: HttpRequest, answer: Answer, job: Job) -> None:
    """Tell whether the answer is another request's sequence. Known with the first token."""
    if job.digest and job.read_cache:
        _note_cache(http, "coalesced" if answer.joined else "miss")


async def _run(services: Services, http: HttpRequest, job: Job, answer: Answer) -> Result:
    """Submit a job, wait for its answer to be complete, store and record it.

    Raises:
        ClientDisconnected: Nobody waits for the answer any more.
        VGateError: There is no complete answer.
    """
    await http.admission.reserve(_most_tokens(job, answer))
    http.on_disconnect(answer.give_up)
    try:
        for sequence in answer.sequences:
            message = _message(services, http, job, sequence.index, whole=answer.whole)
            job.model.engine.submit(sequence, message, services.config.timeouts.request_s)
        await answer.done
    except ClientDisconnected:
        raise
    except BaseException:
        # Also when a later choice could not be submitted: the earlier ones must not run on.
        job.model.engine.abort(answer.sequences)
        raise
    else:
        result = answer.result()
        if job.digest and job.write_cache:
            await services.cache.put(job.digest, result)
        return result
    finally:
        http.release()
        _record(http, job, answer)
        answer.close()


def _most_tokens(job: Job, answer: Answer) -> int:
    return sum(job.prompt_tokens) + (job.sampling.max_tokens or 0) * len(answer.choices)


def tenant_of(http: HttpRequest) -> tuple[str, float]:
    """Return whose request it is and the weight of their share."""
    return http.admission.key.name, http.admission.key.weight


def _message(
    services: Services, http: HttpRequest, job: Job, index: int, *, whole: bool
) -> Generate:
    sampling, nth = job.sampling, index % job.choices_each
    if sampling.seed is not None and nth:
        # Each choice of a seeded request is another sample, and the same one every time.
        sampling = msgspec.structs.replace(sampling, seed=nth_seed(sampling.seed, nth))
    tenant, weight = tenant_of(http)
    # Choices of one request are different sequences, and the same ones in a like request.
    shared = job.digest and job.read_cache
    return Generate(
        id=job.model.engine.next_id(),
        prompt=job.prompt_of(index).packed,
        sampling=sampling,
        tenant=tenant,
        weight=weight,
        queue_timeout_s=services.config.timeouts.queue_s,
        share=job.digest + index.to_bytes(4, "little") if shared else b"",
        options=job.options,
        priority=job.priority,
        whole=whole,
    )


def _record(http: HttpRequest, job: Job, answer: Answer) -> None:
    counts = answer.counts
    http.admission.settle(counts.prompt + counts.completion)
    http.log_fields["prompt_tokens"] = counts.prompt
    http.log_fields["completion_tokens"] = counts.completion
    now = time.monotonic()
    ttft_s = decode_s = None
    if answer.first_token_at is not None:
        ttft_s = answer.first_token_at - job.arrived
        decode_s = now - answer.first_token_at
        http.log_fields["ttft_ms"] = round(ttft_s * 1000, 1)
    if answer.joined:
        metrics.COALESCED.inc()
    metrics.record_generated(
        metrics.Generated(
            job.name, counts.prompt, counts.completion, ttft_s, decode_s or 0.0, answer.joined
        )
    )
