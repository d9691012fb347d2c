"""``POST /v1/chat/completions``."""

from __future__ import annotations

from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, generation_of
from vgate.frontend.apis.openai.chat.response import ChatEncoder
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
        lambda job: _encoder(request, job),
        stream=bool(request.stream),
    )


def _encoder(request: ChatRequest, job: Job) -> ChatEncoder:
    return ChatEncoder(
        id=new_id("chatcmpl-"),
        created=job.created,
        model=job.name,
        stream_options=request.stream_options,
        logprobs=logprob_texts(
            job,
            prompt_top=request.prompt_logprobs,
            as_token_ids=bool(request.return_tokens_as_token_ids),
        ),
        prompt_token_ids=job.prompts[0] if request.return_token_ids else None,
        prefix=request.echo_text,
        reasons=job.reasons,
    )
