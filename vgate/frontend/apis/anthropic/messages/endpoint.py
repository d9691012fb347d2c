"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``, Anthropic's chat endpoints."""

from functools import partial

import msgspec

from vgate.frontend.apis.anthropic.errors import REQUEST_ID_HEADER
from vgate.frontend.apis.anthropic.messages.request import (
    CountTokensRequest,
    decode_count_tokens,
    decode_messages,
)
from vgate.frontend.apis.anthropic.messages.response import MessagesEncoder
from vgate.frontend.apis.anthropic.messages.translate import (
    FIELDS,
    generation_of,
    reasoning_effort,
)
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.pipeline import GenerateRequest, PipelineServices


async def messages(services: PipelineServices, http: HttpRequest) -> Response | None:
    """Answer a Messages request.

    Return None if the answer was streamed.
    """
    http.set_header(REQUEST_ID_HEADER, http.id)
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_messages)
    http.streams = bool(request.stream)
    effort = await _effort(services, http, request)
    with FIELDS.translating():
        asked = GenerateRequest(
            await services.work.done(http, partial(generation_of, request, effort, http.ignored)),
            lambda job: MessagesEncoder(job.name, http.id),
            bool(request.stream),
        )
        return await services.pipeline.answer(http, asked)


async def count_tokens(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer with the number of tokens in the prompt of a Messages request."""
    http.set_header(REQUEST_ID_HEADER, http.id)
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_count_tokens)
    effort = await _effort(services, http, request)
    with FIELDS.translating():
        generation = await services.work.done(
            http, partial(generation_of, request, effort, http.ignored)
        )
        count = await services.pipeline.count_tokens(http, generation)
    return Response(200, msgspec.json.encode({"input_tokens": count}), [JSON])


async def _effort(
    services: PipelineServices, http: HttpRequest, request: CountTokensRequest
) -> str | None:
    if request.thinking is None and request.output_config is None:
        return None
    traits = await services.pipeline.traits(http, request.model, with_tools=bool(request.tools))
    return reasoning_effort(
        request,
        http.ignored,
        adjustable=traits.sets_effort,
        reasons=traits.reasons,
        always_reasons=traits.always_reasons,
    )
