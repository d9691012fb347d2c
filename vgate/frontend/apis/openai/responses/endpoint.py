"""``POST /v1/responses``, and ``GET`` and ``DELETE`` of stored responses."""

import time
from functools import partial
from typing import cast

import msgspec

from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.apis.openai.responses.request import FIELDS, decode_responses, generation_of
from vgate.frontend.apis.openai.responses.response import response_to
from vgate.frontend.apis.openai.responses.stored import answer_stored, continued, keeper
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder
from vgate.frontend.apis.openai.responses.tools import Tool
from vgate.frontend.http import FEW_ITEMS, HttpRequest, Response
from vgate.frontend.pipeline import GenerateRequest, Job
from vgate.frontend.services import Services

PREFIX = "/v1/responses/"


async def responses(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request; None if the answer was streamed."""
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_responses)

    key: str = http.admission.key.name
    request, earlier = await continued(request, services.responses, key)
    # What is stored may be more than the body.
    http.is_short = http.is_short and len(request.input) <= FEW_ITEMS
    keep = keeper(request, earlier, services.responses, key, len(body))
    tools: dict[str, Tool] = {tool.served_name: tool for tool in cast("list[Tool]", request.tools)}

    def encoder_of(job: Job) -> ResponsesEncoder:
        response = response_to(request, job.name, job.sampling, job.created)
        response = msgspec.structs.replace(response, store=keep is not None)
        return ResponsesEncoder(response, time.time, logprob_texts(job), tools, keep)

    with FIELDS.translating():
        translate = partial(generation_of, request, http.ignored, earlier.items)
        generation = await services.work.done(http, translate)
        asked = GenerateRequest(generation, encoder_of, bool(request.stream))
        return await services.pipeline.answer(http, asked)


async def stored_response(services: Services, http: HttpRequest) -> Response:
    """Answer with a stored response or its input items, or delete it."""
    return await answer_stored(services.responses, http, http.path.removeprefix(PREFIX))
