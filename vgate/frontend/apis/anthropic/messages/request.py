"""Requests of the Messages API as Anthropic defines them, and the checks that types can't express.

An annotation says if a field is accepted without effect or refused; see `fields`.
"""

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import ServedTypes, check_json, decode_request
from vgate.frontend.apis.fields import ACCEPTED, FieldPolicies, ignored
from vgate.frontend.apis.shared import MAX_STOPS, MAX_TOOLS, CallText, StopString, ToolName
from vgate.frontend.http import Ignored
from vgate.wire.parameters import MaxTokens, Temperature, TopK, TopP

# Anthropic's levels are low, medium, high, xhigh and max.
Effort = Annotated[str, Meta(min_length=1, max_length=32)]
Display = Literal["summarized", "omitted", "updates"]
# As in vLLM an earlier call needs no id.
CallId = Annotated[str, Meta(max_length=256)] | None
# The engine's prefix cache needs no marks.
CacheControl = Annotated[dict[str, Any] | None, ACCEPTED]


class _Param(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _BlockParam(_Param, frozen=True, kw_only=True, tag_field="type"):
    cache_control: CacheControl = None


class TextBlockParam(_BlockParam, frozen=True, kw_only=True, tag="text"):
    """Text."""

    text: str
    citations: Annotated[Any, ignored([])] = None


class ToolUseBlockParam(_BlockParam, frozen=True, kw_only=True, tag="tool_use"):
    """A call that the assistant made."""

    id: CallId = None
    name: CallText
    input: dict[str, Any] | None = None
    caller: Annotated[Any, ignored({"type": "direct"})] = None
    toolset_name: Annotated[str | None, ignored()] = None


class ToolResultBlockParam(_BlockParam, frozen=True, kw_only=True, tag="tool_result"):
    """The result of a call."""

    tool_use_id: str | None = None
    content: str | list[TextBlockParam] | None = None
    is_error: bool | None = None
    toolset_name: Annotated[str | None, ignored()] = None


class ThinkingBlockParam(_BlockParam, frozen=True, kw_only=True, tag="thinking"):
    """The assistant's reasoning. The signature is ignored."""

    thinking: str
    signature: Annotated[str | None, ACCEPTED] = None


class RedactedThinkingBlockParam(_BlockParam, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Reasoning that another server encrypted; it is ignored."""

    data: str | None = None


BlockParam = (
    TextBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
    | ThinkingBlockParam
    | RedactedThinkingBlockParam
)


class MessageParam(_Param, frozen=True):
    """A turn of the conversation, or a part of one."""

    role: Literal["user", "assistant", "system"]
    content: str | list[BlockParam]


class ToolParam(_Param, frozen=True):
    """A tool that the client runs. Its input is always streamed as it is generated."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    eager_input_streaming: Annotated[bool | None, ACCEPTED] = None
    allowed_callers: Annotated[Any, ignored(["direct"])] = None
    defer_loading: Annotated[bool | None, ignored(False)] = None
    input_examples: Annotated[list[Any] | None, ignored([])] = None


class _ToolChoiceParam(_Param, frozen=True, kw_only=True, tag_field="type"):
    disable_parallel_tool_use: bool | None = None


class ChooseAuto(_ToolChoiceParam, frozen=True, tag="auto"):
    """The model decides."""


class ChooseAny(_ToolChoiceParam, frozen=True, tag="any"):
    """The model must call at least one tool."""


class ChooseTool(_ToolChoiceParam, frozen=True, kw_only=True, tag="tool"):
    """The model must call this tool."""

    name: ToolName


class ChooseNone(_ToolChoiceParam, frozen=True, tag="none"):
    """The model must not call a tool."""


class ThinkingEnabled(_Param, frozen=True, tag_field="type", tag="enabled"):
    """The model thinks; the budget is a hint, not a bound."""

    budget_tokens: Annotated[int, Meta(ge=1)]
    display: Display | None = None


class ThinkingAdaptive(_Param, frozen=True, tag_field="type", tag="adaptive"):
    """The model decides how much it thinks."""

    display: Display | None = None


class ThinkingDisabled(_Param, frozen=True, tag_field="type", tag="disabled"):
    """The model does not think."""


class OutputFormat(_Param, frozen=True):
    """The format that the text must follow."""

    type: Literal["json_schema"] = "json_schema"
    schema: dict[str, Any] | None = None


class OutputConfig(_Param, frozen=True):
    """How much effort the answer gets, and its format."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class CountTokensRequest(_Param, frozen=True, kw_only=True):
    """``POST /v1/messages/count_tokens``: the fields that shape a prompt."""

    model: str = ""
    messages: Annotated[list[MessageParam], Meta(min_length=1)]
    system: str | list[TextBlockParam] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ChooseAuto | ChooseAny | ChooseTool | ChooseNone | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_control: CacheControl = None
    user_profile_id: Annotated[str | None, ACCEPTED] = None
    workspace_id: Annotated[str | None, ACCEPTED] = None
    context_management: Annotated[Any, ignored({}, {"edits": []})] = None
    mcp_servers: Annotated[Any, ignored([])] = None
    speed: Annotated[Any, ignored("standard")] = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """``POST /v1/messages``."""

    max_tokens: MaxTokens
    stop_sequences: Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    metadata: Annotated[dict[str, Any] | None, ACCEPTED] = None
    service_tier: Annotated[str | None, ACCEPTED] = None
    container: Annotated[Any, ignored()] = None
    diagnostics: Annotated[Any, ignored()] = None
    inference_geo: Annotated[Any, ignored()] = None


# Anthropic's API has more types: images, documents, tools that its servers run.
_SERVED: ServedTypes = (
    (re.compile(r"system\[\d+\]"), ("text",)),
    (
        re.compile(r"messages\[\d+\]\.content\[\d+\]"),
        ("text", "tool_use", "tool_result", "thinking", "redacted_thinking"),
    ),
    (re.compile(r"messages\[\d+\]\.content\[\d+\]\.content\[\d+\]"), ("text",)),
    (re.compile(r"tools\[\d+\]"), ("custom",)),
    (re.compile(r"tool_choice"), ("auto", "any", "tool", "none")),
    (re.compile(r"thinking"), ("enabled", "adaptive", "disabled")),
)
# The last two would give another kind of answer, so they are refused and not left out.
_KNOWN_BLOCKS = frozenset(
    {
        *("text", "tool_use", "tool_result", "thinking", "redacted_thinking"),
        *("image", "document"),
    }
)
_BLOCKS_OF_ROLE: dict[str, tuple[type[BlockParam], ...]] = {
    "system": (TextBlockParam,),
    "user": (TextBlockParam, ToolResultBlockParam),
    "assistant": (
        TextBlockParam,
        ToolUseBlockParam,
        ThinkingBlockParam,
        RedactedThinkingBlockParam,
    ),
}
_policies: dict[type[_Param], FieldPolicies[Any]] = {
    kind: FieldPolicies(kind)
    for kind in (
        MessagesRequest,
        CountTokensRequest,
        ToolParam,
        TextBlockParam,
        ToolUseBlockParam,
        ToolResultBlockParam,
    )
}

_Request = TypeVar("_Request", bound=CountTokensRequest)

_messages_decoder = msgspec.json.Decoder(MessagesRequest)
_count_tokens_decoder = msgspec.json.Decoder(CountTokensRequest)


def decode_messages(body: bytes, ignored: Ignored) -> MessagesRequest:
    """Decode and check a Messages request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    return _decode(_messages_decoder, body, ignored)


def decode_count_tokens(body: bytes, ignored: Ignored) -> CountTokensRequest:
    """Decode and check a request to count tokens; raises as `decode_messages` does."""
    return _decode(_count_tokens_decoder, body, ignored)


def _decode(decoder: msgspec.json.Decoder[_Request], body: bytes, ignored: Ignored) -> _Request:
    request = decode_request(decoder, body, ignored, _SERVED, clean=_leave_out)
    _policies[decoder.type].check(request, ignored)
    _check_tools(request, ignored)
    config = request.output_config
    if config is not None and config.format is not None:
        if config.format.schema is None:
            ignored.add("output_config.format")
        check_json(config.format.schema, "output_config.format.schema")
    _check_content("system", request.system, "system", ignored)
    for index, message in enumerate(request.messages):
        _check_content(message.role, message.content, f"messages[{index}].content", ignored)
    return request


def _leave_out(document: dict[str, Any], ignored: Ignored) -> None:
    """Leave out the tools that Anthropic's servers or models bring along, and the blocks of these.

    Without any tool left there is nothing to choose.
    """
    tools = document.get("tools")
    if isinstance(tools, list):
        document["tools"] = _without(tools, {"custom"}, "tools", ignored)
        if not document["tools"] and document.pop("tool_choice", None) is not None:
            ignored.add("tool_choice")
    messages = document.get("messages")
    for message in messages if isinstance(messages, list) else ():
        _leave_out_blocks(message, "messages[].content", ignored)


def _leave_out_blocks(holder: Any, where: str, ignored: Ignored) -> None:
    """Leave them out of the content of a message or of a tool's result."""
    if not isinstance(holder, dict) or not isinstance(holder.get("content"), list):
        return
    holder["content"] = _without(holder["content"], _KNOWN_BLOCKS, where, ignored)
    for block in holder["content"]:
        _leave_out_blocks(block, f"{where}[].content", ignored)


def _without(items: list[Any], known: Collection[str], where: str, ignored: Ignored) -> list[Any]:
    """Return the items without those whose type is named and unknown."""
    kept = []
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind not in known:
            ignored.add(f"{where}[].type={kind}")
        else:
            kept.append(item)
    return kept


def _check_tools(request: CountTokensRequest, ignored: Ignored) -> None:
    choice, names = request.tool_choice, set()
    for index, tool in enumerate(request.tools or ()):
        _policies[ToolParam].check(tool, ignored, f"tools[{index}].")
        check_json(tool.input_schema, f"tools[{index}].input_schema")
        names.add(tool.name)
    if isinstance(choice, ChooseAny | ChooseTool) and not request.tools:
        ignored.add("tool_choice")
    elif isinstance(choice, ChooseTool) and choice.name not in names:
        where = "tool_choice.name"
        raise InvalidValueError(f"`{where}` {choice.name!r} is none of `tools`", param=where)


def _check_content(
    role: str, content: str | Sequence[BlockParam] | None, where: str, ignored: Ignored
) -> None:
    if content is None or isinstance(content, str):
        return
    for index, block in enumerate(content):
        path = f"{where}[{index}]"
        if not isinstance(block, _BLOCKS_OF_ROLE[role]):
            path = f"{path}.type"
            allowed = ", ".join(_type_of(kind) for kind in _BLOCKS_OF_ROLE[role])
            sent = _type_of(type(block))
            text = f"`{path}` {sent!r} is not allowed in a message of role {role!r}"
            raise InvalidValueError(f"{text}; allowed: {allowed}", param=path)
        if (policies := _policies.get(type(block))) is not None:
            policies.check(block, ignored, f"{path}.")
        if isinstance(block, ToolUseBlockParam):
            check_json(block.input, f"{path}.input")
        elif isinstance(block, ToolResultBlockParam):
            _check_content(role, block.content, f"{path}.content", ignored)


def _type_of(block: type[msgspec.Struct]) -> str:
    return str(block.__struct_config__.tag)
