"""Messages requests as Anthropic defines them; decoded and checked.

Bounds of sampling parameters are not repeated here: the chat request that comes of it has them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidRequestError, InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.anthropic.messages.blocks import BLOCKS_OF, Block, TextBlock, block_type
from vgate.frontend.apis.anthropic.messages.refusals import refused_type
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.openai.tools import MAX_TOOLS, ToolName

# Anthropic's bound (API reference, "Create a Message").
MIN_BUDGET_TOKENS = 1024

Effort = Literal["low", "medium", "high", "xhigh", "max"]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn of the conversation, or a part of one."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool of the client's. Its input always streams as it is written."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None


class _Choice(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    disable_parallel_tool_use: bool | None = None


class ChooseAuto(_Choice, frozen=True, forbid_unknown_fields=True, tag="auto"):
    """The model decides."""


class ChooseAny(_Choice, frozen=True, forbid_unknown_fields=True, tag="any"):
    """One or more tools are called."""


class ChooseTool(_Choice, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool"):
    """A certain tool is called."""

    name: ToolName


class ChooseNone(_Choice, frozen=True, forbid_unknown_fields=True, tag="none"):
    """No tool is called."""


ToolChoice = ChooseAuto | ChooseAny | ChooseTool | ChooseNone
Display = Literal["summarized", "omitted"]


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


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled


class OutputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form that the text must have."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the answer is to be."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class CountTokensRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """``POST /v1/messages/count_tokens``: what a prompt is made of."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    # Taken without effect.
    cache_control: dict[str, Any] | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    # Refused.
    context_management: Any = None
    mcp_servers: Any = None
    speed: Any = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/messages``."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    # Taken without effect.
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    # Refused.
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None


# Values with which a refused field changes nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({}, {"edits": []}),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
_REFUSED_OF_TOOLS: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
_REFUSED_OF_BLOCKS: dict[str, tuple[Any, ...]] = {
    "caller": ({"type": "direct"},),
    "citations": ([],),
    "toolset_name": (),
}

_messages_decoder = msgspec.json.Decoder(MessagesRequest)
_count_tokens_decoder = msgspec.json.Decoder(CountTokensRequest)


def decode_messages(body: bytes) -> MessagesRequest:
    """Decode and check a Messages request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    try:
        request = decode_request(_messages_decoder, body)
    except InvalidRequestError as error:
        raise refused_type(error, body) or error from None
    _check(request)
    thinking = request.thinking
    if isinstance(thinking, ThinkingEnabled) and thinking.budget_tokens >= request.max_tokens:
        where = "thinking.budget_tokens"
        message = (
            f"`{where}` must be less than `max_tokens` {request.max_tokens}, "
            f"got {thinking.budget_tokens}"
        )
        raise InvalidValueError(message, param=where)
    return request


def decode_count_tokens(body: bytes) -> CountTokensRequest:
    """Decode and check a request to count tokens.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    try:
        request = decode_request(_count_tokens_decoder, body)
    except InvalidRequestError as error:
        raise refused_type(error, body) or error from None
    _check(request)
    return request


def _check(request: CountTokensRequest) -> None:
    _refuse(request, _REFUSED, "")
    for index, tool in enumerate(request.tools or ()):
        if tool.type not in {None, "custom"}:
            where = f"tools[{index}].type"
            message = f"`{where}` {str(tool.type)[:80]!r} is not supported; only 'custom' is"
            raise UnsupportedParameterError(message, param=where)
        _refuse(tool, _REFUSED_OF_TOOLS, f"tools[{index}].")
    if isinstance(request.tool_choice, ChooseAny | ChooseTool) and not request.tools:
        raise InvalidValueError("`tool_choice` needs `tools`", param="tool_choice")
    for index, block in enumerate(request.system if isinstance(request.system, list) else ()):
        _refuse(block, _REFUSED_OF_BLOCKS, f"system[{index}].")
    for index, turn in enumerate(request.messages):
        if not isinstance(turn.content, str):
            _check_blocks(turn.role, turn.content, f"messages[{index}].content")


def _check_blocks(role: str, blocks: list[Block], where: str) -> None:
    for index, block in enumerate(blocks):
        if not isinstance(block, BLOCKS_OF[role]):
            path = f"{where}[{index}].type"
            allowed = ", ".join(block_type(kind) for kind in BLOCKS_OF[role])
            text = f"`{path}` {block_type(block)!r} is not allowed in a message of role {role!r}"
            raise InvalidValueError(f"{text}; allowed: {allowed}", param=path)
        _refuse(block, _REFUSED_OF_BLOCKS, f"{where}[{index}].")
        content = getattr(block, "content", None)
        for place, part in enumerate(content if isinstance(content, list) else ()):
            _refuse(part, _REFUSED_OF_BLOCKS, f"{where}[{index}].content[{place}].")


def _refuse(struct: msgspec.Struct, refused: dict[str, tuple[Any, ...]], where: str) -> None:
    """Refuse what would change the answer and isn't served."""
    for name, neutral in refused.items():
        value = getattr(struct, name, None)
        if value is not None and value not in neutral:
            path = f"{where}{name}"
            message = f"`{path}` is not supported by this server"
            raise UnsupportedParameterError(message, param=path)
