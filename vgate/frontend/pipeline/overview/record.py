"""What is logged, traced and counted of an answer."""

import time

from vgate.frontend.answers.answer import Answer
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.observe.exemplars import example_of
from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.overview.use import settle
from vgate.frontend.pipeline.spans import generated


def record(http: HttpRequest, job: EngineJob, answer: Answer) -> None:
    """Settle what an answer that has ended has used, and record it."""
    counts = settle(http, job, answer)
    if http.trace is not None:
        http.trace.generated = generated(http, job, answer)
    http.log_fields["prompt_tokens"] = counts.prompt
    http.log_fields["completion_tokens"] = counts.completion
    ttft_s, decode_s = None, 0.0
    if answer.first_token_at is not None:
        ttft_s = answer.first_token_at - http.arrived
        decode_s = (answer.ended_at or time.monotonic()) - answer.first_token_at
        http.log_fields["ttft_ms"] = _ms(ttft_s)
    http.log_fields.update(_timing_fields(answer))
    if http.taken_up is not None:
        ttft_s = None  # it was the first connection's
    if answer.coalesced and "cache" in http.log_fields:
        # A stream that was opened without a token did not know it.
        http.log_fields["cache"] = "coalesced"
    tokens, times_s = (counts.prompt, counts.completion), (ttft_s, decode_s)
    metrics.record_generated(job.name, tokens, times_s, example_of(http), shared=answer.coalesced)


def _timing_fields(answer: Answer) -> dict[str, float]:
    """Return the fields of an answer that has ended; of several sequences the slowest counts.

    One that shares another request's sequence has waited for neither the queue nor the prompt.
    """
    sequences = answer.sequences
    fields: dict[str, float] = {"cached_tokens": answer.counts.cached}
    own = [sequence for sequence in sequences if not sequence.coalesced]
    queued = [s.queued_s for s in own if s.queued_s is not None]
    if answer.first_token_at is None:
        # One that never left the queue waited there until it ended.
        now = time.monotonic()
        queued += [now - s.submitted_at for s in own if s.queued_s is None and s.submitted_at]
    if queued:
        fields["queue_ms"] = _ms(max(queued))
    if timings := [s.timing for s in own if s.timing is not None]:
        fields["prefill_ms"] = _ms(max(timing.prefill_s for timing in timings))
        if preemptions := sum(timing.preemptions for timing in timings):
            fields["preemptions"] = preemptions
    gaps = [s.gaps for s in sequences if s.gaps is not None]
    if medians := [median for each in gaps if (median := each.median_s) is not None]:
        fields["gap_p50_ms"] = _ms(max(medians))
        fields["gap_max_ms"] = _ms(max(each.longest_s for each in gaps))
    if resumptions := sum(sequence.resumptions for sequence in sequences):
        fields["resumptions"] = resumptions
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
