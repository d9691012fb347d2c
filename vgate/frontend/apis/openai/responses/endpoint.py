"""``POST /v1/responses``; responses are not stored, so there are none to get or delete."""

import time
from typing import cast

from vgate.errors import NotFoundError
from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.apis.openai.responses.request import FIELDS, decode_responses, generation_of
from vgate.frontend.apis.openai.responses.response import response_to
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder
from vgate.frontend.apis.openai.responses.tools import Tool
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.pipeline import GenerateRequest, Job
from vgate.frontend.services import Services

PREFIX = "/v1/responses/"


async def responses(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request; None if the answer was streamed."""
    request = decode_responses(await http.body(services.max_body_bytes), http.ignored)

    tools: dict[str, Tool] = {tool.served_name: tool for tool in cast("list[Tool]", request.tools)}

    def encoder_of(job: Job) -> ResponsesEncoder:
        response = response_to(request, job.name, job.sampling, job.created)
        return ResponsesEncoder(response, time.time, logprob_texts(job), tools)

    with FIELDS.translating():
        asked = GenerateRequest(
            generation_of(request, http.ignored), encoder_of, bool(request.stream)
        )
        return await services.pipeline.answer(http, asked)


async def stored_response(_services: Services, http: HttpRequest) -> Response:
    """Answer that there is no such response."""
    name = http.path.removeprefix(PREFIX).partition("/")[0]
    message = f"there is no response {name[:80]!r}: this server stores none"
    raise NotFoundError(message, param="response_id")
