"""What an answer used, and what is logged, traced and counted of it."""

import time

from vgate.frontend.answers import TokenCounts
from vgate.frontend.answers.answer import Answer, StreamedAnswer
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.observe.exemplars import example_of
from vgate.frontend.observe.traces import Generated, Phases
from vgate.frontend.pipeline.job import EngineJob
from vgate.log import milliseconds
from vgate.usage import Used


def count_stream(http: HttpRequest, job: EngineJob, answer: StreamedAnswer) -> None:
    """Count a stream before its last event is sent, so that none is complete and not counted."""
    _settle(http, job, answer)
    http.admission.record()


def record(http: HttpRequest, job: EngineJob, answer: Answer) -> None:
    """Settle what an answer that has ended has used, and record it."""
    counts = _settle(http, job, answer)
    if http.trace is not None:
        http.trace.generated = _generated(http, job, answer)
    http.log_fields["prompt_tokens"] = counts.prompt
    http.log_fields["completion_tokens"] = counts.completion
    ttft_s, decode_s = None, 0.0
    if answer.first_token_at is not None:
        ttft_s = answer.first_token_at - http.arrived
        decode_s = (answer.ended_at or time.monotonic()) - answer.first_token_at
        http.log_fields["ttft_ms"] = milliseconds(ttft_s)
    http.log_fields.update(_timing_fields(answer, counts.cached))
    if http.taken_up is not None:
        ttft_s = None  # it was the first connection's
    shared = answer.coalesced
    if shared and "cache" in http.log_fields:
        # A stream that was opened without a token did not know it.
        http.log_fields["cache"] = "coalesced"
    tokens, times_s = (counts.prompt, counts.completion), (ttft_s, decode_s)
    metrics.record_generated(job.name, tokens, times_s, example_of(http), shared=shared)


def _timing_fields(answer: Answer, cached_tokens: int) -> dict[str, float]:
    """Return the fields of an answer that has ended; of several sequences the slowest counts.

    One that shares another request's sequence has waited for neither the queue nor the prompt.
    """
    fields: dict[str, float] = {"cached_tokens": cached_tokens}
    own = [sequence for sequence in answer.sequences if not sequence.coalesced]
    waits_s = [sequence.queued_s for sequence in own if sequence.queued_s is not None]
    if answer.first_token_at is None:
        # One that never left the queue waited there until it ended.
        now = time.monotonic()
        waits_s += [now - s.submitted_at for s in own if s.queued_s is None and s.submitted_at]
    if waits_s:
        fields["queue_ms"] = milliseconds(max(waits_s))
    if timings := [sequence.timing for sequence in own if sequence.timing is not None]:
        fields["prefill_ms"] = milliseconds(max(timing.prefill_s for timing in timings))
    if preemptions := sum(timing.preemptions for timing in timings):
        fields["preemptions"] = preemptions
    gaps = [sequence.gaps for sequence in answer.sequences if sequence.gaps is not None]
    if medians_s := [median_s for each in gaps if (median_s := each.median_s) is not None]:
        fields["gap_p50_ms"] = milliseconds(max(medians_s))
        fields["gap_max_ms"] = milliseconds(max(each.longest_s for each in gaps))
    if resumptions := sum(sequence.resumptions for sequence in answer.sequences):
        fields["resumptions"] = resumptions
    return fields


def _settle(http: HttpRequest, job: EngineJob, answer: Answer) -> TokenCounts:
    """Say what an answer used so far; return it."""
    counts = answer.counts
    if http.taken_up is not None:
        # The rest was counted by the connections before.
        counts = http.taken_up.rest_of(counts)
        http.admission.requests = int(http.taken_up.counted is None)
    if not http.admission.is_recorded:  # as a complete stream is
        used = Used(0, counts.prompt, counts.cached, counts.completion, counts.reasoning)
        http.admission.settle(job.name, used)
    return counts


def _generated(http: HttpRequest, job: EngineJob, answer: Answer) -> Generated:
    """Return what the trace of a request says about its answer, which has ended."""
    choices, sampling = answer.choices, job.sampling
    counts = answer.counts
    structured = job.options.structured
    return Generated(
        request={
            "gen_ai.request.model": job.generation.model or job.name,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": top_k if (top_k := sampling.top_k) and top_k > 0 else None,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
            "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.choice.count": len(choices) if len(choices) > 1 else None,
            "gen_ai.output.type": "json" if structured and "json" in structured.kind else "text",
        },
        response={
            "gen_ai.response.model": job.name,
            "gen_ai.response.finish_reasons": [c.finish_reason for c in choices if c.finish_reason],
            "gen_ai.response.time_to_first_chunk": (
                answer.first_token_at and answer.first_token_at - http.arrived
            ),
            "gen_ai.usage.input_tokens": counts.prompt,
            "gen_ai.usage.output_tokens": counts.completion,
            "gen_ai.usage.cache_read.input_tokens": counts.cached,
            "gen_ai.usage.reasoning.output_tokens": counts.reasoning or None,
        },
        phases=_phases(answer),
        called=[name for choice in choices for name in choice.called],
    )


def _phases(answer: Answer) -> Phases:
    sequences = [s for s in answer.sequences if s.submitted_at]
    began = [c.calls_began_at for c in answer.choices if c.calls_began_at is not None]
    return Phases(
        submitted=min((s.submitted_at for s in sequences), default=None),
        started=min(
            (s.submitted_at + s.queued_s for s in sequences if s.queued_s is not None), default=None
        ),
        first_token=answer.first_token_at,
        calls=min(began, default=None),
        ended=answer.ended_at or time.monotonic(),
        shared=answer.coalesced,
    )
