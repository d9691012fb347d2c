"""``POST /v1/completions``."""

from __future__ import annotations

from vgate.frontend.apis.openai.completions.request import (
    CompletionRequest,
    decode_completion,
    generation_of,
)
from vgate.frontend.apis.openai.completions.response import CompletionEncoder
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
        lambda job: _encoder(request, job),
        stream=bool(request.stream),
    )


def _encoder(request: CompletionRequest, job: Job) -> CompletionEncoder:
    prompts = job.prompts
    return CompletionEncoder(
        id=new_id("cmpl-"),
        created=job.created,
        model=job.name,
        stream_options=request.stream_options,
        choices_each=request.n or 1,
        prompts=prompts,
        echo=[job.prompt_text(i) for i in range(len(prompts))] if request.echo else None,
        logprobs=logprob_texts(
            job,
            prompt_top=request.prompt_logprobs,
            as_token_ids=bool(request.return_tokens_as_token_ids),
        ),
        return_token_ids=bool(request.return_token_ids),
    )
