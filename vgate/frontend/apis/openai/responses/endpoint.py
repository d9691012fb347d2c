"""``POST /v1/responses``, and ``GET`` and ``DELETE`` of stored responses."""

import time
from functools import partial
from typing import cast

import msgspec

from vgate.frontend.apis.last_event import LastEvent
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.apis.openai.responses.request import FIELDS, decode_responses, generation_of
from vgate.frontend.apis.openai.responses.response import encoded_once, response_to
from vgate.frontend.apis.openai.responses.stored import answer_stored, continued, keeper
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder
from vgate.frontend.apis.openai.responses.tools import Tool
from vgate.frontend.apis.shared import parameters
from vgate.frontend.http import HttpRequest, Response
from vgate.frontend.pipeline import GenerateRequest, Job
from vgate.frontend.services import Services

PREFIX = "/v1/responses/"
_MAX_DIGITS = 12


def _last_event(http: HttpRequest) -> LastEvent:
    """Return what the client of a response has; its events are numbered from 0.

    Raises:
        InvalidValueError: Where it wants to go on is not a number.
    """
    after = parameters(http).get("starting_after")
    stream = http.path.removeprefix(PREFIX).removeprefix("resp_")
    if after is None:
        return LastEvent(stream)
    if not after.isdecimal() or len(after) > _MAX_DIGITS:
        raise invalid("starting_after", "must be an event's sequence number")
    return LastEvent(stream, (int(after) + 1,))


async def responses(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request.

    Return None if the answer was streamed.
    """
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_responses)
    request, earlier = await continued(services.work, http, request, services.responses)
    key: str = http.admission.key.name
    keep = keeper(request, earlier, services.responses, key, len(body))
    tools: dict[str, Tool] = {tool.served_name: tool for tool in cast("list[Tool]", request.tools)}

    def encoder_of(job: Job) -> ResponsesEncoder:
        response = response_to(request, job.name, job.sampling, job.created)
        response = msgspec.structs.replace(response, store=keep is not None)
        if not http.is_short:
            response = encoded_once(response)
        return ResponsesEncoder(response, time.time, logprob_texts(job), tools, keep)

    with FIELDS.translating():
        translate = partial(generation_of, request, http.ignored, earlier.items)
        generation = await services.work.done(http, translate)
        asked = GenerateRequest(generation, encoder_of, bool(request.stream))
        return await services.pipeline.answer(http, asked)


def is_streamed(http: HttpRequest) -> bool:
    """Whether a request is for a response as a stream, which it has lost."""
    return http.method == "GET" and parameters(http).get("stream") == "true"


async def stored_response(services: Services, http: HttpRequest) -> Response | None:
    """Answer with a stored response or its input items, delete it, or go on with its stream."""
    if is_streamed(http):
        last = _last_event(http)
        http.path = PREFIX[:-1]
        await services.pipeline.take_up(http, last.stream, last.received)
        return await responses(services, http)
    path = http.path.removeprefix(PREFIX)
    return await answer_stored(services.work, http, services.responses, path)
