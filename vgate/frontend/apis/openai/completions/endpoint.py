"""``POST /v1/completions``."""

from vgate.frontend.apis.openai.chunks import response_fields
from vgate.frontend.apis.openai.completions.request import (
    check_repeated,
    decode_completion,
    generation_of,
)
from vgate.frontend.apis.openai.completions.response import CompletionEncoder
from vgate.frontend.http import HttpRequest, Ignored, Response
from vgate.frontend.pipeline import GenerateRequest, Job, PipelineServices


async def completions(services: PipelineServices, http: HttpRequest) -> Response | None:
    """Answer a completion request.

    Return None if the answer was streamed.
    """
    return await services.pipeline.answer_body(http, await services.work.body(http), read)


def read(body: bytes, ignored: Ignored) -> GenerateRequest:
    """Return what the body of a completion request asks for."""
    request = decode_completion(body, ignored)

    def encoder_of(job: Job) -> CompletionEncoder:
        prompts = job.prompts
        check_repeated(request, sum(map(len, prompts)))
        return CompletionEncoder(
            **response_fields("cmpl-", request, job),
            choices_each=request.n or 1,
            prompts=prompts,
            echo=[job.prompt_text(i) for i in range(len(prompts))] if request.echo else None,
            return_token_ids=bool(request.return_token_ids),
        )

    return GenerateRequest(generation_of(request), encoder_of, bool(request.stream))
