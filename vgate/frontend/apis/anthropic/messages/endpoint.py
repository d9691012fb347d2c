"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``, Anthropic's way to chat."""

from __future__ import annotations

import time

import msgspec

from vgate.errors import InvalidRequestError
from vgate.frontend.apis.anthropic.errors import REQUEST_ID_HEADER
from vgate.frontend.apis.anthropic.messages.request import (
    CountTokensRequest,
    decode_count_tokens,
    decode_messages,
)
from vgate.frontend.apis.anthropic.messages.stream import MessagesEncoder
from vgate.frontend.apis.anthropic.messages.thinking import reasoning_effort
from vgate.frontend.apis.anthropic.messages.translate import Translation
from vgate.frontend.apis.openai.chat.template_inputs import can_set_effort
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.pipeline import serving
from vgate.frontend.pipeline.conversation import chat_job, chat_prompt
from vgate.frontend.services import Services


async def messages(services: Services, http: HttpRequest) -> Response | None:
    """Answer a Messages request; None if the answer was streamed."""
    arrived = time.monotonic()
    http.set_header(REQUEST_ID_HEADER, http.id)
    request = decode_messages(await http.body(services.config.server.max_body_bytes))
    translation = Translation(request, await _effort(services, request))
    chat = translation.chat_request()
    try:
        job = await chat_job(services, http, chat, arrived)
        encoder = MessagesEncoder(job.name, http.id)
        return await serving.serve(services, http, job, encoder, stream=bool(request.stream))
    except InvalidRequestError as error:  # of the engine's as well
        raise translation.restated(error) from None


async def count_tokens(services: Services, http: HttpRequest) -> Response:
    """Say how many tokens the prompt of a Messages request has."""
    http.set_header(REQUEST_ID_HEADER, http.id)
    request = decode_count_tokens(await http.body(services.config.server.max_body_bytes))
    translation = Translation(request, await _effort(services, request))
    chat = translation.chat_request()
    try:
        prompt = await chat_prompt(services, http, chat)
    except InvalidRequestError as error:
        raise translation.restated(error) from None
    return Response(200, msgspec.json.encode({"input_tokens": len(prompt)}), [JSON])


async def _effort(services: Services, request: CountTokensRequest) -> str | None:
    """Return the reasoning effort that a request asks of its model, in the model's own terms."""
    if request.thinking is None and request.output_config is None:
        return None
    text = await services.model(request.model).wait_until_ready()
    template = text.tool_template if request.tools else text.template
    adjustable = template is not None and can_set_effort(template)
    return reasoning_effort(request, adjustable=adjustable, reasons=text.reasons)
