"""Requests of the Responses API as OpenAI defines them, with vLLM's additions.

The items of the input are in `input`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import check_json, decode_request
from vgate.frontend.apis.fields import ACCEPTED, FieldMap, FieldPolicies, ignored, refused
from vgate.frontend.apis.openai.common import (
    RENAMED,
    CountOrAll,
    TextRequest,
    generation_from,
    without_no_limit,
)
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.responses.input import InputConversation
from vgate.frontend.apis.openai.responses.tools import read_choice, read_tools, tool_use
from vgate.frontend.apis.openai.structured import (
    ResponseFormat,
    check_constraints,
    constraint_of,
)
from vgate.frontend.apis.shared import MAX_TOOLS, check_template_kwargs, own_kwargs
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import (
    Constraint,
    Conversation,
    Generation,
    ToolUse,
    schema_constraint,
)
from vgate.wire.parameters import MaxTokens, ReasoningEffort, StructuredOutput

OUTPUT_LOGPROBS = "message.output_text.logprobs"

# Parts of the answer that clients may ask for and that have no effect: they concern tools that
# aren't served, or reasoning, which is always in the answer as plain text.
_WITHOUT_EFFECT = frozenset(
    {
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)

_NO_CONVERSATIONS = "use `previous_response_id`, or send the whole conversation in `input`"
_BY_INCLUDE = f"use `include` with {OUTPUT_LOGPROBS!r}"
# Reasoning is shown in full.
Summary = Annotated[str | None, ignored("auto")]


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to reason."""

    effort: ReasoningEffort | None = None
    summary: Summary = None
    generate_summary: Summary = None
    context: Annotated[str | None, ignored("auto")] = None
    mode: Annotated[str | None, ignored("standard")] = None


class PlainFormat(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Any text."""


class ObjectFormat(msgspec.Struct, frozen=True, tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, frozen=True, tag="json_schema", forbid_unknown_fields=True):
    """JSON that follows a schema."""

    name: Annotated[str, Meta(min_length=1)]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The format of the text."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Annotated[str | None, ignored("medium")] = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries; padding against eavesdroppers is never added."""

    include_obfuscation: Annotated[bool | None, ACCEPTED] = None


class ResponsesRequest(TextRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/responses``; the other fields are those of all text APIs."""

    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: Annotated[list[str], Meta(max_length=64)] | None = None
    top_logprobs: CountOrAll | None = None
    stream_options: ResponsesStreamOptions | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    store: bool | None = None
    metadata: Annotated[dict[str, str] | None, ACCEPTED] = None
    max_tool_calls: Annotated[int | None, ACCEPTED] = None

    background: Annotated[
        Any,
        refused(False, instead="send the request without it, and `stream: true` to see progress"),
    ] = None
    background_options: Annotated[Any, ignored()] = None
    previous_response_id: str | None = None
    conversation: Annotated[Any, refused(instead=_NO_CONVERSATIONS)] = None
    prompt: Annotated[Any, refused(instead="send its text in `instructions` and `input`")] = None
    truncation: Literal["auto", "disabled"] | None = None
    context_management: Annotated[Any, ignored()] = None
    access_programs: Annotated[Any, ignored()] = None
    image: Annotated[Any, refused()] = None
    enable_response_messages: Annotated[Any, ignored(False)] = None
    previous_input_messages: Annotated[Any, refused(instead="use `input`")] = None
    # Chat completions' names.
    messages: Annotated[Any, ignored(instead="use `input`")] = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    logprobs: Annotated[Any, ignored(False, instead=_BY_INCLUDE)] = None
    n: Annotated[Any, ignored(1, instead="there is one answer")] = None

    @property
    def effort(self) -> ReasoningEffort | None:
        """The reasoning effort; None for the model's own."""
        return (self.reasoning and self.reasoning.effort) or self.reasoning_effort

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer, if the client set it."""
        return self.max_output_tokens or self.max_completion_tokens or self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether to include the log probabilities of the text's tokens."""
        return OUTPUT_LOGPROBS in (self.include or ())


# This API's names of a generation's fields.
FIELDS = FieldMap(
    {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "logprobs": "include",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "tools[].function": "tools[]",
    }
)

_RENAMED = {**RENAMED, "max_new_tokens": "max_output_tokens", "num_predict": "max_output_tokens"}
del _RENAMED["max_output_tokens"]
_decoder = msgspec.json.Decoder(ResponsesRequest)
_policies = FieldPolicies(ResponsesRequest)
_policies_of_reasoning = FieldPolicies(ReasoningOptions)
_policies_of_text = FieldPolicies(TextOptions)


def decode_responses(body: bytes, ignored: Ignored) -> ResponsesRequest:
    """Decode and check a request, with its tools as structs; an error has the field at fault."""
    request = decode_request(_decoder, body, ignored, renamed=_RENAMED, clean=without_no_limit)
    _policies.check(request, ignored)
    if request.reasoning is not None:
        _policies_of_reasoning.check(request.reasoning, ignored, "reasoning.")
    if request.text is not None:
        _policies_of_text.check(request.text, ignored, "text.")
    for name in {*(request.include or ())} - _WITHOUT_EFFECT - {OUTPUT_LOGPROBS}:
        ignored.add(f"include={name}")
    check_constraints(request.response_format, request.structured_outputs, ignored)
    options = request.stream_options
    if options not in {None, ResponsesStreamOptions()} and not request.stream:
        raise invalid("stream_options", "is only allowed with `stream: true`")
    if request.top_logprobs and not request.wants_logprobs:
        ignored.add("top_logprobs")
    limit = request.token_limit
    if limit is not None and (request.min_tokens or 0) > limit:
        raise invalid("min_tokens", f"must be at most the token limit {limit}")
    check_template_kwargs(request.chat_template_kwargs, ignored)
    return msgspec.structs.replace(
        request,
        tools=read_tools(request.tools or [], ignored),
        tool_choice=read_choice(request.tool_choice, ignored),
    )


def generation_of(
    request: ResponsesRequest, ignored: Ignored, earlier_items: int = 0
) -> Generation:
    """Return the generation that a checked request asks for, or raise if it can't be served.

    Args:
        request: The request, with the whole conversation as its input.
        ignored: Takes the fields that have no effect.
        earlier_items: How many items at the input's beginning were stored, not sent.
    """
    parallel = request.parallel_tool_calls is not False
    tools = tool_use(request.tools, request.tool_choice, parallel=parallel)  # type: ignore[arg-type]
    conversation = _conversation_of(request, ignored, earlier_items)
    return msgspec.structs.replace(
        generation_from(request, conversation, max_tokens=request.token_limit),
        tools=tools,
        constraint=_constraint(request, tools, ignored),
        logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
        show_reasoning=request.include_reasoning is not False,
    )


def _conversation_of(
    request: ResponsesRequest, ignored: Ignored, earlier_items: int
) -> Conversation:
    conversation = InputConversation(request.instructions, ignored)
    if isinstance(request.input, str):
        conversation.add_message("user", request.input)
    else:
        for index, item in enumerate(request.input, -earlier_items):
            conversation.add(item, f"input[{index}]" if index >= 0 else "previous_response_id")
    messages = conversation.finish()
    if not messages:
        raise invalid("input", "must have something other than empty reasoning")
    return Conversation(
        messages=messages,
        add_generation_prompt=not conversation.unfinished,
        continue_final_message=conversation.unfinished,
        drop_oldest=request.truncation == "auto",
        reasoning_effort=request.effort,
        template_kwargs=own_kwargs(request.chat_template_kwargs),
    )


def _constraint(request: ResponsesRequest, tools: ToolUse, ignored: Ignored) -> Constraint | None:
    text_format = None if request.text is None else request.text.format
    # Chat completions' field, where this API's own isn't sent.
    constraint = None if text_format else constraint_of(request.response_format, None)
    if isinstance(text_format, ObjectFormat):
        constraint = Constraint(StructuredOutput("json_object"), "response_format")
    elif isinstance(text_format, SchemaFormat):
        check_json(text_format.schema, "text.format.schema")
        constraint = schema_constraint(text_format.schema, "response_format")
    if request.structured_outputs is None:
        return constraint
    if constraint is not None:
        raise invalid("structured_outputs", "is not allowed with a `text.format` of JSON")
    if tools.mode in {"required", "named"}:
        ignored.add("structured_outputs")
    return constraint_of(None, request.structured_outputs)
