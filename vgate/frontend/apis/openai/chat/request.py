"""Chat requests as OpenAI defines them, with vLLM's additions; decoded and checked.

`decode_chat` returns a request in which every field has a right type and range, and in which no
field that changes the answer would be ignored. What is left to check needs the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import check_json, decode_request
from vgate.frontend.apis.fields import RefusedFields
from vgate.frontend.apis.openai.chat.messages import ChatMessage, check_messages, message_text
from vgate.frontend.apis.openai.common import (
    Count,
    GenerationRequest,
    ReasoningEffort,
    check_common,
)
from vgate.frontend.apis.openai.tools import Tool, ToolChoice, check_tools
from vgate.frontend.apis.shared import MAX_TOOLS
from vgate.frontend.pipeline.generation import TEMPLATE_FIELDS

MAX_DOCUMENTS = 1024


class ChatRequest(GenerationRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Meta(max_length=MAX_DOCUMENTS)] | None = None

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer, if the client set it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def generation_prompt(self) -> bool:
        """Whether the prompt ends with the beginning of a new message."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    @property
    def echo_text(self) -> str:
        """What `echo` puts before the answer: the last message, if it has the answer's role."""
        last = self.messages[-1]
        # Without a generation prompt the answer goes on in the last message's role, as in vLLM.
        same_role = last.role == "assistant" or not self.generation_prompt
        return message_text(last) if self.echo and same_role else ""


_decoder = msgspec.json.Decoder(ChatRequest)
_refused = RefusedFields(ChatRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """Decode and check a chat request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_decoder, body)
    check_chat(request)
    return request


def check_chat(request: ChatRequest) -> None:
    """Check what the types can't say of a chat request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    _refused.check(request)
    check_common(request)
    check_messages(request.messages)
    check_tools(request.tools, request.tool_choice)
    _check_demanded(request)
    _check_template(request)
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        message = "set only one of `max_tokens` and `max_completion_tokens`"
        raise InvalidValueError(message, param="max_tokens")
    if request.top_logprobs and not request.logprobs:
        message = "`top_logprobs` needs `logprobs: true`"
        raise InvalidValueError(message, param="top_logprobs")


def _check_demanded(request: ChatRequest) -> None:
    choice = request.tool_choice
    # A constraint is for the text, and a demanded call leaves none.
    demanded = choice == "required" or isinstance(choice, ToolChoice)
    if demanded and request.structured_outputs is not None:
        message = "set only one of `structured_outputs` and a `tool_choice` that demands a call"
        raise InvalidValueError(message, param="structured_outputs")


def _check_template(request: ChatRequest) -> None:
    if request.continue_final_message and request.add_generation_prompt:
        message = "set only one of `continue_final_message` and `add_generation_prompt`"
        raise InvalidValueError(message, param="continue_final_message")
    if request.continue_final_message and not message_text(request.messages[-1]):
        message = "`continue_final_message` needs text in the last message"
        raise InvalidValueError(message, param="continue_final_message")
    for name in request.chat_template_kwargs or ():
        if name in TEMPLATE_FIELDS:
            where = f"chat_template_kwargs.{name}"
            raise InvalidValueError(f"`{where}` has a field of its own in requests", param=where)
    for name in ("chat_template_kwargs", "documents"):
        check_json(getattr(request, name), name)
