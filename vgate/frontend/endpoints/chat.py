"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time

from vgate.frontend import serving
from vgate.frontend.conversation import chat_form, chat_job
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.openai.chat import ChatDialect
from vgate.frontend.openai.requests import decode_chat
from vgate.frontend.services import Services


async def chat_completions(services: Services, http: HttpRequest) -> Response | None:
    """Answer a chat request; None if the answer was streamed."""
    arrived = time.monotonic()
    request = decode_chat(await http.body(services.config.server.max_body_bytes))
    job = await chat_job(services, http, request, arrived)
    dialect = ChatDialect(chat_form(request, job))
    return await serving.serve(services, http, job, dialect, stream=bool(request.stream))
