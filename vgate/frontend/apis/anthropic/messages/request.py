"""Requests of the Messages API as Anthropic defines them; see `fields` for what becomes of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.fields import ACCEPTED, refused
from vgate.frontend.apis.shared import MAX_STOPS, MAX_TOOLS, CallText, StopString, ToolName
from vgate.wire.sampling import Temperature, TopK, TopP

# Anthropic's bound (API reference, "Create a Message").
MIN_BUDGET_TOKENS = 1024

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Display = Literal["summarized", "omitted"]
# The engine's prefix cache needs no marks.
CacheControl = Annotated[dict[str, Any] | None, ACCEPTED]


class _BlockParam(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    cache_control: CacheControl = None


class TextBlockParam(
    _BlockParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"
):
    """Text."""

    text: str
    citations: Annotated[list[Any] | None, refused([])] = None


class ToolUseBlockParam(
    _BlockParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_use"
):
    """A call that the assistant made."""

    id: CallText
    name: CallText
    input: dict[str, Any]
    caller: Annotated[dict[str, Any] | None, refused({"type": "direct"})] = None
    toolset_name: Annotated[str | None, refused()] = None


class ToolResultBlockParam(
    _BlockParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_result"
):
    """The result of a call."""

    tool_use_id: Annotated[str, Meta(min_length=1)]
    content: str | list[TextBlockParam] | None = None
    is_error: bool | None = None
    toolset_name: Annotated[str | None, refused()] = None


class ThinkingBlockParam(
    _BlockParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="thinking"
):
    """The assistant's reasoning. The signature is not looked at."""

    thinking: str
    signature: Annotated[str | None, ACCEPTED] = None


class RedactedThinkingBlockParam(
    _BlockParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="redacted_thinking"
):
    """Reasoning that another server encrypted: nobody else can read it."""

    data: str


BlockParam = (
    TextBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
    | ThinkingBlockParam
    | RedactedThinkingBlockParam
)


class MessageParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn of the conversation, or a part of one."""

    role: Literal["user", "assistant", "system"]
    content: str | list[BlockParam]


class ToolParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool of the client's. Its input always streams as it is written."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl = None
    eager_input_streaming: Annotated[bool | None, ACCEPTED] = None
    allowed_callers: Annotated[list[str] | None, refused(["direct"])] = None
    defer_loading: Annotated[bool | None, refused(False)] = None
    input_examples: Annotated[list[Any] | None, refused([])] = None


class _ToolChoiceParam(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    disable_parallel_tool_use: bool | None = None


class ChooseAuto(_ToolChoiceParam, frozen=True, forbid_unknown_fields=True, tag="auto"):
    """The model decides."""


class ChooseAny(_ToolChoiceParam, frozen=True, forbid_unknown_fields=True, tag="any"):
    """One or more tools are called."""


class ChooseTool(
    _ToolChoiceParam, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool"
):
    """A certain tool is called."""

    name: ToolName


class ChooseNone(_ToolChoiceParam, frozen=True, forbid_unknown_fields=True, tag="none"):
    """No tool is called."""


class ThinkingEnabled(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="enabled"
):
    """The model thinks, about so much."""

    budget_tokens: Annotated[int, Meta(ge=MIN_BUDGET_TOKENS)]
    display: Display | None = None


class ThinkingAdaptive(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="adaptive"
):
    """The model decides how much it thinks."""

    display: Display | None = None


class ThinkingDisabled(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="disabled"
):
    """The model does not think."""


class OutputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The format that the text must follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer should be like."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/messages/count_tokens``: what a prompt is made of."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[MessageParam], Meta(min_length=1)]
    system: str | list[TextBlockParam] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ChooseAuto | ChooseAny | ChooseTool | ChooseNone | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl = None
    user_profile_id: Annotated[str | None, ACCEPTED] = None
    workspace_id: Annotated[str | None, ACCEPTED] = None
    context_management: Annotated[Any, refused({}, {"edits": []})] = None
    mcp_servers: Annotated[Any, refused([])] = None
    speed: Annotated[Any, refused("standard")] = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stop_sequences: Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    metadata: Annotated[dict[str, Any] | None, ACCEPTED] = None
    service_tier: Annotated[Literal["auto", "standard_only"] | None, ACCEPTED] = None
    container: Annotated[Any, refused()] = None
    diagnostics: Annotated[Any, refused()] = None
    inference_geo: Annotated[Any, refused()] = None
