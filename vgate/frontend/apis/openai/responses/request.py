"""Requests of the Responses API as OpenAI defines them, with vLLM's additions.

The items of the input are in `input`.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import ServedTypes, check_json, decode_request
from vgate.frontend.apis.fields import ACCEPTED, FieldMap, RefusedFields, refused
from vgate.frontend.apis.openai.common import (
    Count,
    ReasoningEffort,
    TextRequest,
    generation_from,
)
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.responses.input import InputConversation
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.apis.shared import MAX_TOOLS, ToolName, function_tool
from vgate.frontend.pipeline import (
    NO_TOOLS,
    TEMPLATE_FIELDS,
    Constraint,
    Conversation,
    Generation,
    ToolMode,
    ToolUse,
    schema_constraint,
)
from vgate.wire.messages import StructuredOutput

OUTPUT_LOGPROBS = "message.output_text.logprobs"

# The others have no effect: they concern tools that aren't served, or reasoning, which is always in
# the answer as plain text and can be sent back as that.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]

# OpenAI's bounds (API reference, "Create a model response").
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]

_NOTHING_STORED = "nothing is stored; send the whole conversation in `input`"
_IN_FULL = "reasoning is shown in full; use 'auto' or leave it out"
Summary = Annotated[
    Literal["auto", "concise", "detailed"] | None, refused("auto", instead=_IN_FULL)
]


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much to reason."""

    effort: ReasoningEffort | None = None
    summary: Summary = None
    generate_summary: Summary = None
    context: Annotated[
        Literal["auto", "current_turn", "all_turns"] | None,
        refused("auto", instead="the model's chat template decides; use 'auto' or leave it out"),
    ] = None
    mode: Annotated[str | None, refused("standard", instead="use 'standard' or leave it out")] = (
        None
    )


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
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        refused("medium", instead="use 'medium' or leave it out"),
    ] = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries; padding against eavesdroppers is never added."""

    include_obfuscation: Annotated[bool | None, ACCEPTED] = None


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call, as a response repeats it."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    type: Literal["function"]


class FunctionToolParam(FunctionTool, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    allowed_callers: Annotated[list[str] | None, refused(["direct"])] = None
    async_: Annotated[bool | None, refused(False)] = msgspec.field(default=None, name="async")
    defer_loading: Annotated[bool | None, refused(False)] = None
    output_schema: Annotated[dict[str, Any] | None, refused()] = None


class NamedFunction(msgspec.Struct, frozen=True, tag="function", forbid_unknown_fields=True):
    """A function, by its name."""

    name: ToolName


class AllowedFunctions(
    msgspec.Struct, frozen=True, tag="allowed_tools", forbid_unknown_fields=True
):
    """The only functions that the model may call."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1)]


_ToolChoice = Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions


class ResponsesRequest(TextRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/responses``; the other fields are those of all text APIs."""

    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    tools: Annotated[list[FunctionToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[Includable] | None = None
    top_logprobs: Count | None = None
    stream_options: ResponsesStreamOptions | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    metadata: Annotated[Metadata | None, ACCEPTED] = None
    max_tool_calls: Annotated[int | None, ACCEPTED] = None

    background: Annotated[
        Any,
        refused(False, instead="send the request without it, and `stream: true` to see progress"),
    ] = None
    background_options: Annotated[Any, refused()] = None
    previous_response_id: Annotated[Any, refused(instead=_NOTHING_STORED)] = None
    conversation: Annotated[Any, refused(instead=_NOTHING_STORED)] = None
    prompt: Annotated[Any, refused(instead="send its text in `instructions` and `input`")] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None, refused("disabled", instead="shorten `input`")
    ] = None
    context_management: Annotated[Any, refused()] = None
    access_programs: Annotated[Any, refused()] = None
    image: Annotated[Any, refused()] = None
    enable_response_messages: Annotated[Any, refused(False)] = None
    previous_input_messages: Annotated[Any, refused(instead="use `input`")] = None
    # Chat completions' names.
    messages: Annotated[Any, refused(instead="use `input`")] = None
    max_tokens: Annotated[Any, refused(instead="use `max_output_tokens`")] = None
    max_completion_tokens: Annotated[Any, refused(instead="use `max_output_tokens`")] = None
    response_format: Annotated[Any, refused(instead="use `text.format`")] = None
    reasoning_effort: Annotated[Any, refused(instead="use `reasoning.effort`")] = None
    logprobs: Annotated[Any, refused(instead=f"use `include` with {OUTPUT_LOGPROBS!r}")] = None
    n: Annotated[Any, refused(instead="there is one answer")] = None

    @property
    def effort(self) -> ReasoningEffort | None:
        """The reasoning effort; None for the model's own."""
        return None if self.reasoning is None else self.reasoning.effort

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

# OpenAI's API has more: tools that its servers run.
_TYPES: ServedTypes = (
    (re.compile(r"tools\[\d+\]"), ("function",)),
    (re.compile(r"tool_choice"), ("function", "allowed_tools")),
    (re.compile(r"tool_choice\.tools\[\d+\]"), ("function",)),
)
_decoder = msgspec.json.Decoder(ResponsesRequest)
_refused = RefusedFields(ResponsesRequest)
_refused_of_reasoning = RefusedFields(ReasoningOptions)
_refused_of_text = RefusedFields(TextOptions)
_refused_of_tools = RefusedFields(FunctionToolParam)


def decode_responses(body: bytes) -> ResponsesRequest:
    """Decode and check a request; an error has the field at fault."""
    request = decode_request(_decoder, body, _TYPES)
    _refused.check(request)
    if request.reasoning is not None:
        _refused_of_reasoning.check(request.reasoning, "reasoning.")
    if request.text is not None:
        _refused_of_text.check(request.text, "text.")
    for index, tool in enumerate(request.tools or ()):
        _refused_of_tools.check(tool, f"tools[{index}].")
        check_json(tool.parameters, f"tools[{index}].parameters")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "is only allowed with `stream: true`")
    if request.top_logprobs and not request.wants_logprobs:
        raise invalid("top_logprobs", f"needs {OUTPUT_LOGPROBS!r} in `include`")
    limit = request.max_output_tokens
    if limit is not None and (request.min_tokens or 0) > limit:
        raise invalid("min_tokens", f"must be at most the token limit {limit}")
    for name in request.chat_template_kwargs or ():
        if name in TEMPLATE_FIELDS:
            raise invalid(f"chat_template_kwargs.{name}", "has a field of its own in requests")
    check_json(request.chat_template_kwargs, "chat_template_kwargs")
    return request


def generation_of(request: ResponsesRequest) -> Generation:
    """Return the generation that a checked request asks for, or raise if it can't be served."""
    tools = _tool_use(request)
    return generation_from(
        request,
        _conversation_of(request),
        max_tokens=request.max_output_tokens,
        tools=tools,
        constraint=_constraint(request, tools),
        logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
        show_reasoning=request.include_reasoning is not False,
    )


def _conversation_of(request: ResponsesRequest) -> Conversation:
    conversation = InputConversation(request.instructions)
    if isinstance(request.input, str):
        conversation.add_message("user", request.input)
    else:
        for index, item in enumerate(request.input):
            conversation.add(item, f"input[{index}]")
    messages = conversation.finish()
    if not messages:
        raise invalid("input", "must have something other than empty reasoning")
    return Conversation(
        messages=messages,
        add_generation_prompt=not conversation.unfinished,
        continue_final_message=conversation.unfinished,
        reasoning_effort=request.effort,
        template_kwargs=request.chat_template_kwargs or {},
    )


def _tool_use(request: ResponsesRequest) -> ToolUse:
    tools, choice = request.tools or [], request.tool_choice
    names = {tool.name for tool in tools}
    mode: ToolMode = "auto"
    named = None
    if isinstance(choice, NamedFunction):
        mode, named = "named", choice.name
        if named not in names:
            raise invalid("tool_choice.name", f"{named!r} is none of `tools`")
    elif isinstance(choice, AllowedFunctions):
        mode = choice.mode
        allowed = {tool.name for tool in choice.tools}
        for name in sorted(allowed - names):
            raise invalid("tool_choice.tools", f"{name!r} is none of `tools`")
        tools = [tool for tool in tools if tool.name in allowed]
    elif choice is not None:
        mode = choice
        if mode == "required" and not tools:
            raise invalid("tool_choice", "'required' needs `tools`")
    if not tools or mode == "none":
        return NO_TOOLS
    described = [function_tool(t.name, t.description, t.parameters, t.strict) for t in tools]
    return ToolUse(mode, described, named, request.parallel_tool_calls is not False)


def _constraint(request: ResponsesRequest, tools: ToolUse) -> Constraint | None:
    text_format = None if request.text is None else request.text.format
    constraint = None
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
        raise invalid("structured_outputs", "is not allowed with a demanded tool call")
    return constraint_of(None, request.structured_outputs)
