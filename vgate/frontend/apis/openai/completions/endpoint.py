"""``POST /v1/completions``: prompts as text or token ids, without a conversation."""

from __future__ import annotations

from vgate.frontend.apis.openai.completions.request import CompletionRequest, decode_completion
from vgate.frontend.apis.openai.completions.response import (
    CompletionEncoder,
    CompletionResponseOptions,
)
from vgate.frontend.apis.openai.completions.translate import generation_of
from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline.port import Job
from vgate.frontend.services import Services


async def completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a completion request; None if the answer was streamed."""
    request = decode_completion(await http.body(services.max_body_bytes))
    return await services.pipeline.answer(
        http,
        generation_of(request),
        lambda job: CompletionEncoder(response_options(request, job)),
        stream=bool(request.stream),
    )


def response_options(request: CompletionRequest, job: Job) -> CompletionResponseOptions:
    """Return what the client of a completion request wants to see."""
    prompts = job.prompts
    return CompletionResponseOptions(
        id=new_id("cmpl-"),
        created=job.created,
        model=job.name,
        choices_each=request.choices,
        prompts=prompts,
        echo=[job.prompt_text(i) for i in range(len(prompts))] if request.echo else None,
        include_usage=request.include_usage,
        continuous_usage=request.continuous_usage,
        texts=logprob_texts(job, as_token_ids=bool(request.return_tokens_as_token_ids)),
        logprobs=job.options.logprobs,
        prompt_logprobs=request.prompt_logprobs,
        return_token_ids=bool(request.return_token_ids),
    )
