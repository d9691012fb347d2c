"""``POST /v1/chat/completions``."""

from __future__ import annotations

from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat
from vgate.frontend.apis.openai.chat.response import ChatEncoder, ChatResponseOptions
from vgate.frontend.apis.openai.chat.translate import generation_of
from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline.port import Job
from vgate.frontend.services import Services


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed."""
    request = decode_chat(await http.body(services.max_body_bytes))
    return await services.pipeline.answer(
        http,
        generation_of(request),
        lambda job: ChatEncoder(response_options(request, job)),
        stream=bool(request.stream),
    )


def response_options(request: ChatRequest, job: Job) -> ChatResponseOptions:
    """Return what the client of a chat request wants to see."""
    return ChatResponseOptions(
        id=new_id("chatcmpl-"),
        created=job.created,
        model=job.name,
        include_usage=request.include_usage,
        continuous_usage=request.continuous_usage,
        logprobs=logprob_texts(job, as_token_ids=bool(request.return_tokens_as_token_ids)),
        top_logprobs=job.options.logprobs or 0,
        prompt_logprobs=job.options.prompt_logprobs,
        prompt_token_ids=job.prompts[0] if request.return_token_ids else None,
        prefix=request.echo_text,
        reasons=job.reasons,
    )
