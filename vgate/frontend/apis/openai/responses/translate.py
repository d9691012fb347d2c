"""A request of the Responses API as the generation that it asks for."""

from __future__ import annotations

import re

import msgspec

from vgate.errors import InvalidRequestError, InvalidValueError
from vgate.frontend.apis.decoding import ServedTypes, check_json, decode_request
from vgate.frontend.apis.fields import FieldMap, RefusedFields
from vgate.frontend.apis.openai.common import generation_from
from vgate.frontend.apis.openai.responses.input import InputConversation
from vgate.frontend.apis.openai.responses.request import (
    OUTPUT_LOGPROBS,
    AllowedFunctions,
    FunctionToolParam,
    NamedFunction,
    ObjectFormat,
    ReasoningOptions,
    ResponsesRequest,
    SchemaFormat,
    TextOptions,
)
from vgate.frontend.apis.openai.structured import constraint_of
from vgate.frontend.apis.shared import function_tool
from vgate.frontend.pipeline.constraints import schema_constraint
from vgate.frontend.pipeline.generation import (
    NO_TOOLS,
    TEMPLATE_FIELDS,
    Constraint,
    Conversation,
    Generation,
    ToolMode,
    ToolUse,
)
from vgate.wire.messages import StructuredOutput

# What a generation's fields are called in a request of this API.
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
    """Decode a request, and check what its types can't say.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
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
        raise _invalid("stream_options", "is only allowed with `stream: true`")
    if request.top_logprobs and not request.wants_logprobs:
        raise _invalid("top_logprobs", f"needs {OUTPUT_LOGPROBS!r} in `include`")
    most = request.max_output_tokens
    if most is not None and (request.min_tokens or 0) > most:
        raise _invalid("min_tokens", f"must be at most the token limit {most}")
    for name in request.chat_template_kwargs or ():
        if name in TEMPLATE_FIELDS:
            raise _invalid(f"chat_template_kwargs.{name}", "has a field of its own in requests")
    check_json(request.chat_template_kwargs, "chat_template_kwargs")
    return request


def generation_of(request: ResponsesRequest) -> Generation:
    """Return the generation that a checked request asks for.

    Raises:
        InvalidRequestError: With the field at fault.
    """
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
    conversation = InputConversation()
    if request.instructions:
        conversation.say("system", request.instructions)
    if isinstance(request.input, str):
        conversation.say("user", request.input)
    else:
        for index, item in enumerate(request.input):
            conversation.add(item, f"input[{index}]")
    messages = conversation.finish()
    if not messages:
        raise _invalid("input", "must have something other than empty reasoning")
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
            raise _invalid("tool_choice.name", f"{named!r} is none of `tools`")
    elif isinstance(choice, AllowedFunctions):
        mode = choice.mode
        allowed = {tool.name for tool in choice.tools}
        for name in sorted(allowed - names):
            raise _invalid("tool_choice.tools", f"{name!r} is none of `tools`")
        tools = [tool for tool in tools if tool.name in allowed]
    elif choice is not None:
        mode = choice
        if mode == "required" and not tools:
            raise _invalid("tool_choice", "'required' needs `tools`")
    if not tools or mode == "none":
        return NO_TOOLS
    shown = [function_tool(t.name, t.description, t.parameters, t.strict) for t in tools]
    return ToolUse(mode, shown, named, request.parallel_tool_calls is not False)


def _constraint(request: ResponsesRequest, tools: ToolUse) -> Constraint | None:
    wanted = None if request.text is None else request.text.format
    constraint = None
    if isinstance(wanted, ObjectFormat):
        constraint = Constraint(StructuredOutput("json_object"), "response_format")
    elif isinstance(wanted, SchemaFormat):
        check_json(wanted.schema, "text.format.schema")
        constraint = schema_constraint(wanted.schema, "response_format")
    if request.structured_outputs is None:
        return constraint
    if constraint is not None:
        raise _invalid("structured_outputs", "is not allowed with a `text.format` of JSON")
    if tools.mode in {"required", "named"}:
        raise _invalid("structured_outputs", "is not allowed with a demanded tool call")
    return constraint_of(None, request.structured_outputs)


def _invalid(where: str, problem: str) -> InvalidRequestError:
    return InvalidValueError(f"`{where}` {problem}", param=where)
