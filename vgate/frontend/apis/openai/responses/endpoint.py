"""``POST /v1/responses``; responses are not stored, so there are none to get or delete."""

from __future__ import annotations

from vgate.errors import NotFoundError
from vgate.frontend.apis.openai.chat.translate import generation_of
from vgate.frontend.apis.openai.logprobs import logprob_texts
from vgate.frontend.apis.openai.responses.echo import response_to
from vgate.frontend.apis.openai.responses.response import ResponsesOptions
from vgate.frontend.apis.openai.responses.stream import ResponsesEncoder
from vgate.frontend.apis.openai.responses.translate import decode_asked
from vgate.frontend.http.request import HttpRequest, Response
from vgate.frontend.pipeline.port import Job
from vgate.frontend.services import Services

PREFIX = "/v1/responses/"


async def responses(services: Services, http: HttpRequest) -> Response | None:
    """Answer a request; None if the answer was streamed."""
    asked = decode_asked(await http.body(services.max_body_bytes))

    def encoder_of(job: Job) -> ResponsesEncoder:
        response = response_to(asked, job.name, job.sampling)
        return ResponsesEncoder(ResponsesOptions(response, logprob_texts(job)))

    # The engine may refuse what is asked as well.
    with asked.sources.restating():
        generation, stream = generation_of(asked.chat), bool(asked.request.stream)
        return await services.pipeline.answer(http, generation, encoder_of, stream=stream)


async def stored_response(_services: Services, http: HttpRequest) -> Response:
    """Say that there is no such response.

    Raises:
        NotFoundError: Always.
    """
    name = http.path.removeprefix(PREFIX).partition("/")[0]
    message = f"there is no response {name[:80]!r}: this server stores none"
    raise NotFoundError(message, param="response_id")
