"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time

from vgate.frontend import serving
from vgate.frontend.conversation import chat_form, chat_job, lasts, renewed_job
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.openai.chat import ChatDialect
from vgate.frontend.openai.requests import decode_chat
from vgate.frontend.services import Services
from vgate.frontend.serving import Dialect


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed."""
    arrived = time.monotonic()
    body = await http.body(services.config.server.max_body_bytes)
    recent = services.recent_chats.get(body)
    if recent is None:
        request = decode_chat(body)
        job = await chat_job(services, http, request, arrived)
        dialect: Dialect = ChatDialect(chat_form(request, job))
    else:
        request, dialect = recent.request, recent.dialect
        job = await renewed_job(services, http, recent, arrived)

    def on_hit() -> None:
        if recent is None and lasts(request, job):
            services.recent_chats.put(body, request, job, dialect)

    return await serving.serve(
        services, http, job, dialect, stream=bool(request.stream), on_hit=on_hit
    )
