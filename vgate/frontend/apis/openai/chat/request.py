"""Chat requests as OpenAI defines them, with vLLM's additions: decoded, checked and translated.

The remaining checks need the model.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import check_json, decode_request
from vgate.frontend.apis.fields import FieldPolicies
from vgate.frontend.apis.openai.chat.messages import (
    ChatMessage,
    check_messages,
    message_text,
    neutral_message,
)
from vgate.frontend.apis.openai.common import (
    RENAMED,
    CountOrAll,
    GenerationRequest,
    check_common,
    generation_from,
    without_no_limit,
)
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.apis.openai.tools import Tool, ToolChoice, check_tools, tool_use
from vgate.frontend.apis.shared import MAX_TOOLS, check_template_kwargs, own_kwargs
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Conversation, Generation
from vgate.wire.parameters import MaxTokens, ReasoningEffort

MAX_DOCUMENTS = 1024


class ChatRequest(GenerationRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: CountOrAll | None = None
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
        """The most tokens of an answer, if the client set it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def generation_prompt(self) -> bool:
        """Whether the prompt ends with the beginning of a new message."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    @property
    def echo_text(self) -> str:
        """The text that `echo` puts before the answer: the last message, if the roles match."""
        if not self.echo:
            return ""
        last = self.messages[-1]
        # Without a generation prompt the answer continues in the last message's role, as in vLLM.
        same_role = last.role == "assistant" or not self.generation_prompt
        return message_text(last) if same_role else ""


_Request = TypeVar("_Request", bound=ChatRequest)

_decoder = msgspec.json.Decoder(ChatRequest)
_policies = FieldPolicies(ChatRequest)


def decode_chat(body: bytes, ignored: Ignored) -> ChatRequest:
    """Decode and check a chat request; an error has the field at fault."""
    return decode_chat_as(_decoder, body, ignored)


def decode_chat_as(
    decoder: msgspec.json.Decoder[_Request], body: bytes, ignored: Ignored
) -> _Request:
    """Decode and check a request that has all fields of a chat request."""
    request = decode_request(decoder, body, ignored, renamed=RENAMED, clean=without_no_limit)
    _policies.check(request, ignored)
    check_common(request, request.token_limit, ignored)
    check_messages(request.messages, ignored)
    check_tools(request.tools, request.tool_choice, ignored)
    choice = request.tool_choice
    # A constraint applies to text, and a demanded call leaves none.
    demanded = choice == "required" or isinstance(choice, ToolChoice)
    if demanded and request.structured_outputs is not None:
        ignored.add("structured_outputs")
    _check_template(request, ignored)
    if request.max_completion_tokens and request.max_tokens not in {None, request.token_limit}:
        ignored.add("max_tokens")
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "needs `logprobs: true`")
    return request


def _check_template(request: ChatRequest, ignored: Ignored) -> None:
    if request.continue_final_message and request.add_generation_prompt:
        message = "set only one of `continue_final_message` and `add_generation_prompt`"
        raise InvalidValueError(message, param="continue_final_message")
    if request.continue_final_message and not message_text(request.messages[-1]):
        raise invalid("continue_final_message", "needs text in the last message")
    check_template_kwargs(request.chat_template_kwargs, ignored)
    check_json(request.documents, "documents")


def generation_of(request: ChatRequest) -> Generation:
    """Return the generation that a checked request asks for, or raise if it can't be served."""
    conversation = Conversation(
        messages=[neutral_message(message) for message in request.messages],
        documents=request.documents or [],
        add_generation_prompt=request.generation_prompt,
        continue_final_message=bool(request.continue_final_message),
        reasoning_effort=request.reasoning_effort,
        template=request.chat_template,
        template_kwargs=own_kwargs(request.chat_template_kwargs),
        add_special_tokens=bool(request.add_special_tokens),
    )
    parallel = request.parallel_tool_calls is not False
    return msgspec.structs.replace(
        generation_from(request, conversation, max_tokens=request.token_limit),
        choices=request.n or 1,
        tools=tool_use(request.tools, request.tool_choice, parallel=parallel),
        constraint=constraint_of(request.response_format, request.structured_outputs),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
        show_reasoning=request.include_reasoning is not False,
        keep_token_ids=bool(request.return_token_ids),
        truncation=request.truncation,
    )
