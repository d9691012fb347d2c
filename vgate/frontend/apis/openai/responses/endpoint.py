"""``POST /v1/responses``; responses are not stored, so there are none to get or delete."""

from __future__ import annotations

import time

from vgate.errors import NotFoundError
from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.apis.openai.responses.echo import response_to
from vgate.frontend.apis.openai.responses.response import ResponsesOptions
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder
from vgate.frontend.apis.openai.responses.translate import decode_asked
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.pipeline import serving
from vgate.frontend.pipeline.conversation import chat_job
from vgate.frontend.services import Services

PREFIX = "/v1/responses/"


async def responses(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request; None if the answer was streamed."""
    arrived = time.monotonic()
    asked = decode_asked(await http.body(services.config.server.max_body_bytes))
    # The engine may refuse what is asked as well.
    with asked.sources.restating():
        job = await chat_job(services, http, asked.chat, arrived)
        told = job.options.logprobs is not None
        form = ResponsesOptions(
            response_to(asked, job.name, job.sampling),
            LogprobTexts(job.text.token_texts) if told else None,
        )
        stream = bool(asked.request.stream)
        return await serving.serve(services, http, job, ResponsesEncoder(form), stream=stream)


async def stored_response(_services: Services, http: HttpRequest) -> Response:
    """Say that there is no such response.

    Raises:
        NotFoundError: Always.
    """
    name = http.path.removeprefix(PREFIX).partition("/")[0]
    message = f"there is no response {name[:80]!r}: this server stores none"
    raise NotFoundError(message, param="response_id")
