"""``POST /v1/chat/completions``."""

from vgate.frontend.apis.openai.chat.request import decode_chat, generation_of
from vgate.frontend.apis.openai.chat.response import ChatEncoder
from vgate.frontend.apis.openai.chunks import response_fields
from vgate.frontend.apis.openai.tools import custom_names
from vgate.frontend.http import HttpRequest, Ignored, Response
from vgate.frontend.pipeline import GenerateRequest, Job, PipelineServices


async def chat_completions(services: PipelineServices, http: HttpRequest) -> Response | None:
    """Answer a chat request.

    Return None if the answer was streamed.
    """
    return await services.pipeline.answer_body(http, await services.work.body(http), read)


def read(body: bytes, ignored: Ignored) -> GenerateRequest:
    """Return what the body of a chat request asks for."""
    request = decode_chat(body, ignored)

    def encoder_of(job: Job) -> ChatEncoder:
        return ChatEncoder(
            **response_fields("chatcmpl-", request, job),
            prompt_token_ids=job.prompts[0] if request.return_token_ids else None,
            prefix=request.echo_text,
            reasons=job.reasons,
            custom=custom_names(request.tools),
        )

    return GenerateRequest(generation_of(request), encoder_of, bool(request.stream))
