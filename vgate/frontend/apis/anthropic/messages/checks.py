"""Decodes requests of the Messages API, and checks what the types can't say."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vgate.errors import InvalidValueError
from vgate.frontend.apis.anthropic.messages.request import (
    BlockParam,
    ChooseAny,
    ChooseTool,
    CountTokensRequest,
    MessagesRequest,
    RedactedThinkingBlockParam,
    TextBlockParam,
    ThinkingBlockParam,
    ThinkingEnabled,
    ToolParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from vgate.frontend.apis.decoding import ServedTypes, check_json, decode_request
from vgate.frontend.apis.fields import RefusedFields

# Anthropic's API has more: images, documents, tools that its servers run.
_TYPES: ServedTypes = (
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
# The blocks that a role may have, and those of them that have refused fields.
_BLOCKS_OF: dict[str, tuple[type[BlockParam], ...]] = {
    "system": (TextBlockParam,),
    "user": (TextBlockParam, ToolResultBlockParam),
    "assistant": (
        TextBlockParam,
        ToolUseBlockParam,
        ThinkingBlockParam,
        RedactedThinkingBlockParam,
    ),
}
_refused_of_text = RefusedFields(TextBlockParam)
_refused_of_tools = RefusedFields(ToolParam)
_refused_of_blocks: dict[type[BlockParam], RefusedFields[Any]] = {
    kind: RefusedFields(kind) for kind in (TextBlockParam, ToolUseBlockParam, ToolResultBlockParam)
}

_messages_decoder = msgspec.json.Decoder(MessagesRequest)
_count_tokens_decoder = msgspec.json.Decoder(CountTokensRequest)
_refused_of_messages = RefusedFields(MessagesRequest)
_refused_of_count_tokens = RefusedFields(CountTokensRequest)


def decode_messages(body: bytes) -> MessagesRequest:
    """Decode and check a Messages request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_messages_decoder, body, _TYPES)
    _refused_of_messages.check(request)
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
    request = decode_request(_count_tokens_decoder, body, _TYPES)
    _refused_of_count_tokens.check(request)
    _check(request)
    return request


def _check(request: CountTokensRequest) -> None:
    _check_tools(request)
    config = request.output_config
    if config is not None and config.format is not None:
        check_json(config.format.schema, "output_config.format.schema")
    for index, block in enumerate(request.system if isinstance(request.system, list) else ()):
        _refused_of_text.check(block, f"system[{index}].")
    for index, message in enumerate(request.messages):
        if not isinstance(message.content, str):
            _check_blocks(message.role, message.content, f"messages[{index}].content")


def _check_tools(request: CountTokensRequest) -> None:
    choice, names = request.tool_choice, set()
    for index, tool in enumerate(request.tools or ()):
        _refused_of_tools.check(tool, f"tools[{index}].")
        check_json(tool.input_schema, f"tools[{index}].input_schema")
        names.add(tool.name)
    if isinstance(choice, ChooseAny | ChooseTool) and not request.tools:
        raise InvalidValueError("`tool_choice` needs `tools`", param="tool_choice")
    if isinstance(choice, ChooseTool) and choice.name not in names:
        where = "tool_choice.name"
        raise InvalidValueError(f"`{where}` {choice.name!r} is none of `tools`", param=where)


def _check_blocks(role: str, blocks: list[BlockParam], where: str) -> None:
    for index, block in enumerate(blocks):
        path = f"{where}[{index}]"
        if not isinstance(block, _BLOCKS_OF[role]):
            path = f"{path}.type"
            allowed = ", ".join(_type_of(kind) for kind in _BLOCKS_OF[role])
            text = (
                f"`{path}` {_type_of(type(block))!r} is not allowed in a message of role {role!r}"
            )
            raise InvalidValueError(f"{text}; allowed: {allowed}", param=path)
        if (refused := _refused_of_blocks.get(type(block))) is not None:
            refused.check(block, f"{path}.")
        if isinstance(block, ToolUseBlockParam):
            check_json(block.input, f"{path}.input")
        elif isinstance(block, ToolResultBlockParam) and isinstance(block.content, list):
            for place, part in enumerate(block.content):
                _refused_of_text.check(part, f"{path}.content[{place}].")


def _type_of(block: type[msgspec.Struct]) -> str:
    return str(block.__struct_config__.tag)
