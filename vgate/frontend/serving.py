"""What every generating endpoint does between a checked request and its answer.

Cache, limits, submission, waiting, storing, recording: the same for all of them. Endpoints only
translate their own request into a `Job` and an answer into their own response.
"""

from __future__ import annotations

import time

import msgspec

from vgate.frontend import metrics
from vgate.frontend.disconnect import ClientDisconnected
from vgate.frontend.generation import Answer
from vgate.frontend.http import HttpRequest
from vgate.frontend.result_cache import CachedAnswer
from vgate.frontend.served_model import ServedModel
from vgate.frontend.services import Services
from vgate.frontend.text_model import TextModel
from vgate.wire.messages import Generate
from vgate.wire.sampling import SamplingParams, nth_seed

CACHE_HEADER = "x-vgate-cache"


class Job(msgspec.Struct, frozen=True):
    """A request that is checked and tokenised.

    Attributes:
        model, text: The model and its text side.
        prompt: Token ids.
        packed: The same as the engine gets them.
        sampling: Complete parameters.
        digest: Of everything that shapes the answer; b"" if it is neither cached nor shared.
        read_cache, write_cache: What the client's Cache-Control allows.
        arrived: Monotonic time of the request's arrival.
    """

    model: ServedModel
    text: TextModel
    prompt: list[int]
    packed: bytes
    sampling: SamplingParams
    digest: bytes
    read_cache: bool
    write_cache: bool
    arrived: float


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


def look_up(services: Services, http: HttpRequest, job: Job) -> CachedAnswer | None:
    """Return the stored answer to a job, if there is one and the client takes it."""
    if not (job.digest and job.read_cache):
        note_cache(http, "bypass")
        return None
    found = services.cache.get(job.digest)
    if found is None:
        metrics.CACHE_MISSES.inc()
        return None
    metrics.CACHE_HITS.inc()
    note_cache(http, "hit")
    http.log_fields["prompt_tokens"] = found.prompt_tokens
    http.log_fields["completion_tokens"] = found.completion_tokens
    return found


def note_cache(http: HttpRequest, outcome: str) -> None:
    """Tell the client and the log how the answer relates to the cache."""
    http.set_header(CACHE_HEADER, outcome)
    http.log_fields["cache"] = outcome


def note_sharing(http: HttpRequest, answer: Answer, job: Job) -> None:
    """Tell whether the answer is another request's sequence. Known with the first token."""
    if job.digest and job.read_cache:
        note_cache(http, "coalesced" if answer.joined else "miss")


async def run(services: Services, http: HttpRequest, job: Job, answer: Answer) -> None:
    """Submit a job, wait for its answer to be complete, store and record it.

    Raises:
        ClientDisconnected: Nobody waits for the answer any more.
        VGateError: There is no complete answer.
    """
    services.access.reserve_tokens(http, _most_tokens(job, answer))
    http.on_disconnect(answer.give_up)
    try:
        for sequence in answer.sequences:
            message = _message(services, http, job, sequence.index)
            job.model.engine.submit(sequence, message, services.config.timeouts.request_s)
        await answer.done
    except ClientDisconnected:
        raise
    except BaseException:
        # Also when a later choice could not be submitted: the earlier ones must not run on.
        job.model.engine.abort(answer.sequences)
        raise
    else:
        if job.digest and job.write_cache:
            services.cache.put(job.digest, answer.result())
    finally:
        http.release()
        if http.admission is not None:
            usage = answer.usage
            http.admission.settle(usage.prompt_tokens + usage.completion_tokens)
        _record(http, job, answer)


def _most_tokens(job: Job, answer: Answer) -> int:
    return len(job.prompt) + (job.sampling.max_tokens or 0) * len(answer.choices)


def tenant_of(http: HttpRequest) -> tuple[str, float]:
    """Return whose request it is and the weight of their share."""
    return (http.admission.key.name, http.admission.key.weight) if http.admission else ("", 1.0)


def _message(services: Services, http: HttpRequest, job: Job, index: int) -> Generate:
    sampling = job.sampling
    if sampling.seed is not None and index:
        # Each choice of a seeded request is another sample, and the same one every time.
        sampling = msgspec.structs.replace(sampling, seed=nth_seed(sampling.seed, index))
    tenant, weight = tenant_of(http)
    return Generate(
        id=job.model.engine.next_id(),
        prompt=job.packed,
        sampling=sampling,
        tenant=tenant,
        weight=weight,
        queue_timeout_s=services.config.timeouts.queue_s,
        # Choices of one request are different sequences, and the same ones in a like request.
        share=job.digest + bytes([index]) if job.digest and job.read_cache else b"",
    )


def _record(http: HttpRequest, job: Job, answer: Answer) -> None:
    usage = answer.usage
    http.log_fields["prompt_tokens"] = usage.prompt_tokens
    http.log_fields["completion_tokens"] = usage.completion_tokens
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
            job.model.names[0],
            usage.prompt_tokens,
            usage.completion_tokens,
            ttft_s,
            decode_s or 0.0,
            answer.joined,
        )
    )
