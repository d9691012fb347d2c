"""What an answer used, for the ledger and the limits of its key."""

from vgate.frontend.answers import TokenCounts
from vgate.frontend.answers.answer import Answer, StreamedAnswer
from vgate.frontend.http import HttpRequest
from vgate.frontend.pipeline.job import EngineJob
from vgate.usage import Used


def settle(http: HttpRequest, job: EngineJob, answer: Answer) -> TokenCounts:
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


def count_stream(http: HttpRequest, job: EngineJob, answer: StreamedAnswer) -> None:
    """Count a stream before its last event is sent, so that none is complete and not counted."""
    settle(http, job, answer)
    http.admission.record()
