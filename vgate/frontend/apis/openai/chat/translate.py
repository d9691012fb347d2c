"""From a chat request to the neutral one."""

from __future__ import annotations

from vgate.frontend.apis.openai.chat.messages import neutral_message
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.common import generation_from
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.apis.openai.tools import tool_use
from vgate.frontend.pipeline.generation import Conversation, Generation


def generation_of(request: ChatRequest) -> Generation:
    """Return what a checked chat request asks to be generated.

    Raises:
        InvalidRequestError: Its output format can't be followed.
    """
    return generation_from(
        request,
        _conversation(request),
        max_tokens=request.token_limit,
        choices=request.choices,
        tools=tool_use(
            request.tools, request.tool_choice, parallel=request.parallel_tool_calls is not False
        ),
        constraint=constraint_of(request.response_format, request.structured_outputs),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
        show_reasoning=request.include_reasoning is not False,
        keep_token_ids=bool(request.return_token_ids),
        truncation=request.truncation,
    )


def _conversation(request: ChatRequest) -> Conversation:
    return Conversation(
        messages=[neutral_message(message) for message in request.messages],
        documents=request.documents or [],
        add_generation_prompt=request.generation_prompt,
        continue_final_message=bool(request.continue_final_message),
        reasoning_effort=request.reasoning_effort,
        template=request.chat_template,
        template_kwargs=request.chat_template_kwargs or {},
        add_special_tokens=bool(request.add_special_tokens),
    )
