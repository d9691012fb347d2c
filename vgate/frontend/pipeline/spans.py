"""What the trace of a request says about its generated answer."""

import time

from vgate.frontend.answers.answer import Answer
from vgate.frontend.http import HttpRequest
from vgate.frontend.observe.traces import Generated, Phases
from vgate.frontend.pipeline.job import EngineJob


def generated(http: HttpRequest, job: EngineJob, answer: Answer) -> Generated:
    """Return what is known of an answer that has ended."""
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
            (s.submitted_at + s.queued_s for s in sequences if s.queued_s is not None),
            default=None,
        ),
        first_token=answer.first_token_at,
        calls=min(began, default=None),
        ended=answer.ended_at or time.monotonic(),
        shared=answer.coalesced,
    )
