"""What a response tells of the request that it answers."""

from __future__ import annotations

from typing import Any

from vgate.frontend.apis.openai.responses.request import PlainFormat, ResponsesRequest
from vgate.frontend.apis.openai.responses.response import Response
from vgate.frontend.apis.openai.responses.translate import Asked
from vgate.wire.sampling import SamplingParams


def response_to(asked: Asked, model: str, sampling: SamplingParams) -> Response:
    """Return the response to a request, before there is an answer.

    Args:
        asked: The request.
        model: The name that the response carries.
        sampling: The complete parameters.
    """
    request = asked.request
    return Response(
        model=model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=_reasoning(request),
        safety_identifier=request.safety_identifier,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        text=_text(request),
        tool_choice="auto" if asked.choice is None else asked.choice,
        tools=asked.tools,
        top_logprobs=request.top_logprobs or 0,
        user=request.user,
    )


def _reasoning(request: ResponsesRequest) -> dict[str, Any]:
    effort = None if request.reasoning is None else request.reasoning.effort
    return {"effort": effort, "summary": None}


def _text(request: ResponsesRequest) -> dict[str, Any]:
    form = None if request.text is None else request.text.format
    return {"format": form or PlainFormat(), "verbosity": "medium"}
