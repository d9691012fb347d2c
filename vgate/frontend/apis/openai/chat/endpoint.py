"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time

from vgate.frontend.apis.openai.chat.request import decode_chat
from vgate.frontend.apis.openai.chat.response import ChatEncoder
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.pipeline import serving
from vgate.frontend.pipeline.conversation import chat_job, chat_options
from vgate.frontend.services import Services


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed."""
    arrived = time.monotonic()
    request = decode_chat(await http.body(services.config.server.max_body_bytes))
    job = await chat_job(services, http, request, arrived)
    encoder = ChatEncoder(chat_options(request, job))
    return await serving.serve(services, http, job, encoder, stream=bool(request.stream))
