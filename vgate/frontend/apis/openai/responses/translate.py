"""A request of the Responses API as a chat completion request, which it is generated as."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

from vgate.frontend.apis.field_paths import Sources, convert
from vgate.frontend.apis.openai.chat.request import ChatRequest, check_chat
from vgate.frontend.apis.openai.responses.input import Conversation
from vgate.frontend.apis.openai.responses.request import (
    AS_IN_CHAT,
    ObjectFormat,
    ResponsesRequest,
    SchemaFormat,
    decode_responses,
)
from vgate.frontend.apis.openai.responses.tools import (
    AllowedTools,
    Choice,
    FunctionTool,
    NamedTool,
    function_tools,
    tool_choice,
)

# Fields that have other names in chat completions; some of these are only in errors.
_SOURCES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "logprobs": "include",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
}

_as_in_chat = attrgetter(*AS_IN_CHAT)


class Asked(msgspec.Struct, frozen=True):
    """A checked request.

    Attributes:
        request, tools, choice: What the client sent.
        chat: The same as a chat completion request.
        sources: Names the fields of `chat` as the client knows them.
    """

    request: ResponsesRequest
    tools: list[FunctionTool]
    choice: Choice
    chat: ChatRequest
    sources: Sources


def decode_asked(body: bytes) -> Asked:
    """Decode and check a request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_responses(body)
    tools, choice = function_tools(request.tools or []), tool_choice(request.tool_choice)
    sources = Sources(_SOURCES)
    document = _conversation(request, sources)
    document |= _given(request) | _written(request)
    if tools:
        document["tools"] = [_tool(tool, index, sources) for index, tool in enumerate(tools)]
    if choice is not None:
        document["tool_choice"] = _choice(choice)
    chat = convert(document, ChatRequest, sources.name)
    with sources.restating():
        check_chat(chat)
    return Asked(request, tools, choice, chat, sources)


def _conversation(request: ResponsesRequest, sources: Sources) -> dict[str, Any]:
    conversation = Conversation(sources)
    if request.instructions:
        conversation.say("system", request.instructions, "instructions")
    if isinstance(request.input, str):
        conversation.say("user", request.input, "input")
    else:
        for index, item in enumerate(request.input):
            conversation.add(item, f"input[{index}]")
    document: dict[str, Any] = {"messages": conversation.messages}
    if conversation.unfinished:
        document["continue_final_message"] = True
    return document


def _given(request: ResponsesRequest) -> dict[str, Any]:
    """Return the fields that are the same in both APIs, and those with another name."""
    fields = {
        name: value
        for name, value in zip(AS_IN_CHAT, _as_in_chat(request), strict=True)
        if value is not None
    }
    if request.max_output_tokens is not None:
        fields["max_completion_tokens"] = request.max_output_tokens
    if request.stream_options is not None:
        fields["stream_options"] = {}
    if request.reasoning is not None and request.reasoning.effort is not None:
        fields["reasoning_effort"] = request.reasoning.effort
    if request.wants_logprobs:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return fields


def _written(request: ResponsesRequest) -> dict[str, Any]:
    """Return what is said of the text's form."""
    if request.text is None:
        return {}
    fields: dict[str, Any] = {}
    # "medium" is the usual one, with which nothing changes.
    if request.text.verbosity not in {None, "medium"}:
        fields["verbosity"] = request.text.verbosity
    form = request.text.format
    if isinstance(form, ObjectFormat):
        fields["response_format"] = {"type": "json_object"}
    elif isinstance(form, SchemaFormat):
        schema = {
            "name": form.name,
            "schema": form.schema,
            "description": form.description,
            "strict": form.strict,
        }
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _tool(tool: FunctionTool, index: int, sources: Sources) -> dict[str, Any]:
    sources.note(f"tools[{index}].function", f"tools[{index}]")
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _choice(choice: str | NamedTool | AllowedTools) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    tools = [{"type": "function", "function": {"name": tool.name}} for tool in choice.tools]
    allowed = {"mode": choice.mode, "tools": tools}
    return {"type": "allowed_tools", "allowed_tools": allowed}
