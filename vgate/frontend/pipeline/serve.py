"""From a job to its answer: look up, reserve, submit, wait, record, store, send."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import msgspec

from vgate.config.schema import Timeouts
from vgate.errors import StreamTakenOverError
from vgate.frontend.answers import Result, StreamEncoder
from vgate.frontend.answers.answer import Answer, CollectedAnswer, StreamedAnswer, Write
from vgate.frontend.answers.encoder import replay
from vgate.frontend.answers.keep_alive import KeepAlive
from vgate.frontend.answers.resumable import NumberedEvents, Readers, ResumableAnswer
from vgate.frontend.cache import ResultStore
from vgate.frontend.engines.output.gaps import StreamGaps
from vgate.frontend.http import JSON, ClientDisconnected, HttpRequest, Response
from vgate.frontend.http.long_work import LongWork
from vgate.frontend.observe import metrics
from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.overview.record import count_stream, record
from vgate.frontend.pipeline.overview.running import RunningRequests
from vgate.frontend.pipeline.port import GenerateRequest
from vgate.frontend.pipeline.taking_up import Resumable, offered, reserve_rest
from vgate.frontend.pipeline.waiting.run import run
from vgate.frontend.pipeline.waiting.streams import Notices, open_stream
from vgate.wire.messages import Generate
from vgate.wire.parameters import nth_seed

CACHE_HEADER = "x-vgate-cache"
# With log probabilities: with twenty at each, these take some ten milliseconds.
_FEW_POSITIONS = 256
# Which a result may repeat.
_FEW_PROMPT_TOKENS = 65_536
# Of sequences' messages; to encode and send them takes 2 ms for each megabyte, and as long as for
# so many bytes more for each of them.
_SENT_AT_ONCE_BYTES = 2 * 1024 * 1024
_SEQUENCE_BYTES = 8192


class Context(msgspec.Struct, frozen=True):
    """What all jobs are served with."""

    loop: asyncio.AbstractEventLoop
    timeouts: Timeouts
    cache: ResultStore
    keep_alive: KeepAlive
    notices: Notices
    replay_s: float
    work: LongWork
    running: RunningRequests
    readers: Readers


async def serve(
    context: Context,
    http: HttpRequest,
    job: EngineJob,
    request: GenerateRequest,
    found: Result | None,
) -> Response | None:
    """Answer a job, with the stored result if there is one; None if the answer was streamed.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: There is no answer, and nothing was sent.
    """
    resumable: Resumable | None = http.taken_up
    if resumable is None and request.stream and found is None:
        resumable = offered(http, job, context.replay_s)
    if resumable is not None:
        encoder = await context.work.done(http, partial(resumable.encoder_of, request, job))
        await _stream_resumable(context, http, job, encoder.stream_encoder(), resumable)
        return None
    # It may have to write a long prompt.
    encoder = await context.work.done(http, partial(request.encoder_of, job))
    if request.stream and found is not None:
        events = await _written(context, http, found, partial(replay, encoder.stream_encoder()))
        open_stream(http, size=len(events)).write(events)
        return None
    each, abort = job.generation.choices, job.model.engine.abort
    parts = context.loop, job.make_choice, job.prompt_tokens, each, abort
    if request.stream:
        streamed = StreamedAnswer(
            *parts,
            stream_encoder=encoder.stream_encoder(),
            # Not a closure, through which the answer would refer to itself.
            open_stream=partial(_open, http, job),
        )
        await _run_stream(context, http, job, streamed)
        return None
    if found is None:
        answer = CollectedAnswer(*parts)
        await _run(context, http, job, answer)
        found = answer.result()
        if _is_stored(job):
            await context.cache.put(job.digest, found)
        _report_sharing(http, answer, job)
    return Response(200, await _written(context, http, found, encoder.encode), [JSON])


async def _written(
    context: Context, http: HttpRequest, result: Result, write: Callable[[Result], bytes]
) -> bytes:
    """Return a result as bytes, written on a thread if that takes long."""
    if result.positions > _FEW_POSITIONS or result.counts.prompt > _FEW_PROMPT_TOKENS:
        return await context.work.run(http, partial(write, result))
    return write(result)


async def _stream_resumable(
    context: Context,
    http: HttpRequest,
    job: EngineJob,
    stream_encoder: StreamEncoder,
    resumable: Resumable,
) -> None:
    received = resumable.positions(len(job.prompts) * job.generation.choices)
    events = NumberedEvents(stream_encoder, resumable.request.stream, resumable.ids, received)
    answer = ResumableAnswer(
        context.loop,
        partial(resumable.make_choice, job),
        job.prompt_tokens,
        job.generation.choices,
        job.model.engine.abort,
        readers=context.readers,
        events=events,
        keep_s=resumable.seconds,
        open_stream=partial(_open, http, job),
    )
    await _run_stream(context, http, job, answer, resumable)


async def _run_stream(
    context: Context,
    http: HttpRequest,
    job: EngineJob,
    answer: StreamedAnswer,
    resumable: Resumable | None = None,
) -> None:
    answer.before_end = partial(count_stream, http, job)
    try:
        await _run(context, http, job, answer, resumable)
        if _is_stored(job):
            await context.cache.put(job.digest, answer.result())
    except ClientDisconnected:
        raise
    except StreamTakenOverError:
        if not answer.started:
            raise
        # Its client has another connection, whose request is the one to look at.
        raise ClientDisconnected from None
    except Exception as error:
        if not answer.started:
            raise
        # The status was sent; the error is the stream's last event.
        http.log_fields["error"] = getattr(error, "code", type(error).__name__)
        http.admission.failed = True


def _open(http: HttpRequest, job: EngineJob, answer: StreamedAnswer) -> Write:
    _report_sharing(http, answer, job)
    return open_stream(http, answer.divert).write


async def look_up(context: Context, http: HttpRequest, job: EngineJob) -> Result | None:
    """Return the stored answer to a job, if there is one and the client accepts it."""
    if not (job.digest and job.read_cache):
        _report_cache(http, "bypass")
        return None
    found = await context.cache.get(job.digest)
    if found is None:
        metrics.CACHE_MISSES.inc()
        return None
    await http.admission.count()
    metrics.CACHE_HITS.inc()
    _report_cache(http, "hit")
    http.log_fields["prompt_tokens"] = found.counts.prompt
    http.log_fields["completion_tokens"] = found.counts.completion
    return found


def _report_cache(http: HttpRequest, outcome: str) -> None:
    """Put the cache's outcome into the response's headers and the log."""
    http.set_header(CACHE_HEADER, outcome)
    http.log_fields["cache"] = outcome


def _report_sharing(http: HttpRequest, answer: Answer, job: EngineJob) -> None:
    """Report whether the answer shares sequences, which is known with the first token."""
    if job.digest and job.read_cache and http.taken_up is None:
        _report_cache(http, "coalesced" if answer.coalesced else "miss")


async def _run(
    context: Context,
    http: HttpRequest,
    job: EngineJob,
    answer: Answer,
    resumable: Resumable | None = None,
) -> None:
    """Run a job in the engine, then record its answer.

    Raises:
        ClientDisconnected: The client is gone.
        VGateError: There is no complete answer.
    """
    tokens = sum(job.prompt_tokens) + (job.sampling.max_tokens or 0) * len(answer.choices)
    if http.taken_up is None:
        await http.admission.reserve(tokens)
    else:
        if http.taken_up.counted is not None:
            tokens -= sum(job.prompt_tokens) + http.taken_up.counted
        await reserve_rest(http, max(0, tokens))
    start = partial(_start, context, http, job, answer, resumable)
    context.running.add(http, job.name, job.model.engine, answer)
    try:
        await run(http, job.model.engine, answer, start, partial(_ended, context, http, answer))
    finally:
        context.running.discard(answer)
        if isinstance(answer, StreamedAnswer):
            context.keep_alive.discard(answer)
            context.notices.discard(answer)
        record(http, job, answer)


def _start(
    context: Context, http: HttpRequest, job: EngineJob, answer: Answer, resumable: Resumable | None
) -> Iterator[None]:
    """Start an answer's sequences; yields after each few megabytes of their prompts."""
    timeout_s = context.timeouts.request_s - http.waited_s
    # Stop strings must be found at once: the engine would continue.
    streamed = answer if isinstance(answer, StreamedAnswer) else None
    buffered = streamed is None and not job.decoding.stops
    sent_bytes, options_bytes = 0, 0
    if len(answer.sequences) > 1:
        options_bytes = len(msgspec.msgpack.encode(job.options))
    for sequence in answer.sequences:
        if sent_bytes > _SENT_AT_ONCE_BYTES:
            sent_bytes = 0
            yield
        sequence.fields = job.fields
        if streamed is not None:
            sequence.gaps = StreamGaps()
        message = _message(context, http, job, sequence.index, buffered=buffered)
        sent_bytes += len(message.prompt) + options_bytes + _SEQUENCE_BYTES
        if resumable is not None:
            keep = resumable.keep(sequence.index)
            message = msgspec.structs.replace(message, keep=keep)
        if resumable is not None and resumable.holders:
            holder = resumable.holders[sequence.index]
            job.model.engine.join(holder, sequence, message, timeout_s)
        else:
            job.model.engine.submit(sequence, message, timeout_s)
    if streamed is not None:
        context.keep_alive.add(streamed, http.arrived)
        context.notices.add(streamed, job.model, job.name, streamed.keep_alive)


def _is_stored(job: EngineJob) -> bool:
    return bool(job.digest and job.write_cache)


async def _ended(context: Context, http: HttpRequest, answer: Answer) -> None:
    """Wait for the turn of an answer that is complete."""
    answer.ended_at = time.monotonic()
    grant, used = http.admission.grant, http.admission.used
    if grant is not None and used is not None and isinstance(answer, StreamedAnswer):
        # Its client has the last event, and may send as many requests as it is allowed at once.
        with suppress(OSError):  # which is told when the request ends
            await grant.settle(used.tokens)
    await context.work.turns.end()


def _message(
    context: Context, http: HttpRequest, job: EngineJob, index: int, *, buffered: bool
) -> Generate:
    sampling, nth = job.sampling, index % job.generation.choices
    if sampling.seed is not None and nth:
        # Each choice of a seeded request is a different, but reproducible sample.
        sampling = msgspec.structs.replace(sampling, seed=nth_seed(sampling.seed, nth))
    key = http.admission.key
    # Equal requests share the sequences of equal indexes.
    shared = job.digest and job.read_cache
    return Generate(
        id=job.model.engine.next_id(),
        prompt=job.packed[index // job.generation.choices],
        sampling=sampling,
        tenant=key.name,
        weight=key.weight,
        queue_timeout_s=context.timeouts.queue_s,
        dedup_key=job.digest + index.to_bytes(4, "little") if shared else b"",
        options=job.options,
        priority=job.priority,
        buffered=buffered,
    )
