"""What is logged, traced and counted of an answer."""

import time

from vgate.frontend.answers.answer import Answer
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe import metrics
from vgate.frontend.observe.exemplars import example_of
from vgate.frontend.pipeline.job import EngineJob
from vgate.frontend.pipeline.overview.use import settle
from vgate.frontend.pipeline.spans import generated
from vgate.log import milliseconds


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
    # One that never left the queue waited there until it ended.
    now = time.monotonic() if answer.first_token_at is None else None
    queued_s: float | None = None
    prefill_s: float | None = None
    median_s: float | None = None
    longest_s = 0.0
    preemptions = resumptions = 0
    for sequence in answer.sequences:
        resumptions += sequence.resumptions
        if not sequence.coalesced:
            waited_s = sequence.queued_s
            if waited_s is None and now is not None and sequence.submitted_at:
                waited_s = now - sequence.submitted_at
            queued_s = _slower(queued_s, waited_s)
            if (timing := sequence.timing) is not None:
                prefill_s = _slower(prefill_s, timing.prefill_s)
                preemptions += timing.preemptions
        if (gaps := sequence.gaps) is not None:
            median_s = _slower(median_s, gaps.median_s)
            longest_s = max(longest_s, gaps.longest_s)
    if queued_s is not None:
        fields["queue_ms"] = milliseconds(queued_s)
    if prefill_s is not None:
        fields["prefill_ms"] = milliseconds(prefill_s)
    if preemptions:
        fields["preemptions"] = preemptions
    if median_s is not None:
        fields["gap_p50_ms"] = milliseconds(median_s)
        fields["gap_max_ms"] = milliseconds(longest_s)
    if resumptions:
        fields["resumptions"] = resumptions
    return fields


def _slower(one_s: float | None, other_s: float | None) -> float | None:
    """Return the longer of two times, or the one that is not None, if any."""
    if one_s is None or other_s is None:
        return one_s if other_s is None else other_s
    return max(one_s, other_s)
