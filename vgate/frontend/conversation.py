"""From a checked chat request to a job: render, tokenise, and hold it against the model.

The chat, responses and messages endpoints all come through here, so they differ in how they say
things and in nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from vgate.errors import ContextLengthExceededError, InvalidValueError, UnsupportedParameterError
from vgate.frontend import serving
from vgate.frontend.choice import Reading, tool_call_id
from vgate.frontend.http import HttpRequest
from vgate.frontend.openai.conversation import template_messages
from vgate.frontend.openai.requests import (
    ChatRequest,
    check_against_model,
    reasoning_kwargs,
    shaping_fields,
)
from vgate.frontend.openai.structured import structured_output
from vgate.frontend.openai.tools import ToolUse, tool_use
from vgate.frontend.parsing.base import OutputParser
from vgate.frontend.parsing.detect import TOOL_PARSERS
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.reasoning import ReasoningParser, initial_state
from vgate.frontend.result_cache import digest_of
from vgate.frontend.served_model import ServedModel
from vgate.frontend.services import Services
from vgate.frontend.serving import Job, Prompt
from vgate.frontend.text_model import TextModel
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import GenerateOptions


async def chat_job(
    services: Services, http: HttpRequest, request: ChatRequest, arrived: float
) -> Job:
    """Return what a chat request asks of its model.

    Raises:
        VGateError: It can't be served.
    """
    model, adapter = services.model(request.model)
    # Not before it is known to be ours: whatever else a client sends stays out of the log.
    http.log_fields["model"] = request.model
    text = await model.text_soon()
    check_generates(model, request.model)
    check_against_model(request, text.info)
    tools = tool_use(request)
    rendered = _render(model, text, request, tools)
    prompt = await services.tokenize(
        partial(text.encode, add_special_tokens=bool(request.add_special_tokens)),
        rendered,
        len(rendered),
    )
    prompt = truncated(prompt, request.truncate_prompt_tokens, text)
    return await _job(...)
