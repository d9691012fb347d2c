"""A Messages request as the generation that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from vgate.errors import InvalidValueError
from vgate.frontend.apis.anthropic.messages.request import (
    BlockParam,
    ChooseAny,
    ChooseNone,
    ChooseTool,
    CountTokensRequest,
    MessagesRequest,
    TextBlockParam,
    ThinkingBlockParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from vgate.frontend.apis.anthropic.messages.thinking import shows_thinking
from vgate.frontend.apis.fields import FieldMap
from vgate.frontend.apis.shared import function_tool
from vgate.frontend.pipeline.constraints import schema_constraint
from vgate.frontend.pipeline.generation import (
    NO_TOOLS,
    Constraint,
    Conversation,
    Generation,
    MadeCall,
    Message,
    ToolMode,
    ToolUse,
)
from vgate.wire.sampling import SamplingParams

# What a generation's fields are called in a Messages request.
FIELDS = FieldMap(
    {
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "tools[].function": "tools[]",
        "tools[].function.parameters": "tools[].input_schema",
    }
)

_Content = str | Sequence[BlockParam]

# A conversation can't say that a tool failed, so the text does.
ERROR_PREFIX = "Error: "


def generation_of(request: CountTokensRequest, effort: str | None = None) -> Generation:
    """Return the generation that a checked request asks for.

    Args:
        request: The request.
        effort: The reasoning effort that it asks its model for.

    Raises:
        InvalidValueError: The answer can't continue the conversation, or a schema is too large.
    """
    continues = request.messages[-1].role == "assistant"
    if continues:
        _check_unfinished(request)
    conversation = Conversation(
        messages=_messages_of(request),
        reasoning_effort=effort,
        add_generation_prompt=not continues,
        continue_final_message=continues,
    )
    sampling = SamplingParams()
    stops: tuple[str, ...] = ()
    if isinstance(request, MessagesRequest):
        sampling = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
        )
        stops = tuple(request.stop_sequences or ())
    return Generation(
        model=request.model,
        prompt=conversation,
        sampling=sampling,
        stops=stops,
        tools=_tool_use(request),
        constraint=_constraint(request),
        show_reasoning=shows_thinking(request),
    )


def _messages_of(request: CountTokensRequest) -> list[Message]:
    """Return the messages: consecutive ones of a role are one turn."""
    said: list[tuple[str, _Content]] = [("system", request.system)] if request.system else []
    said += [(message.role, message.content) for message in request.messages]
    messages: list[Message] = []
    for role, contents in groupby(said, key=itemgetter(0)):
        blocks = [block for _, content in contents for block in _blocks_of(content)]
        messages += _assistant_turn(blocks) if role == "assistant" else _other_turn(role, blocks)
    return messages


def _blocks_of(content: _Content) -> Sequence[BlockParam]:
    return [TextBlockParam(text=content)] if isinstance(content, str) else content


def _text_of(blocks: Sequence[BlockParam]) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlockParam))


def _assistant_turn(blocks: list[BlockParam]) -> list[Message]:
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlockParam)]
    calls = [
        MadeCall(block.id, block.name, block.input)
        for block in blocks
        if isinstance(block, ToolUseBlockParam)
    ]
    reasoning = "\n".join(thoughts) if thoughts else None
    return [Message("assistant", _text_of(blocks), reasoning, calls)]


def _other_turn(role: str, blocks: list[BlockParam]) -> list[Message]:
    """Return the results of calls, each a message, and then the turn's text."""
    turn = [_result(block) for block in blocks if isinstance(block, ToolResultBlockParam)]
    if len(turn) < len(blocks) or not blocks:
        turn.append(Message("system" if role == "system" else "user", _text_of(blocks)))
    return turn


def _result(result: ToolResultBlockParam) -> Message:
    content = result.content or ""
    text = content if isinstance(content, str) else _text_of(content)
    text = ERROR_PREFIX + text if result.is_error else text
    return Message("tool", text, tool_call_id=result.tool_use_id)


def _check_unfinished(request: CountTokensRequest) -> None:
    """Check that the answer can continue the assistant's turn that ends the conversation."""
    first = len(request.messages)
    while first and request.messages[first - 1].role == "assistant":
        first -= 1
    has_text = False
    for index, message in enumerate(request.messages[first:], first):
        for place, block in enumerate(_blocks_of(message.content)):
            if isinstance(block, ToolUseBlockParam):
                where = f"messages[{index}].content[{place}]"
                text = f"`{where}` is a tool call, so a message with its tool_result must follow"
                raise InvalidValueError(text, param=where)
            has_text = has_text or bool(isinstance(block, TextBlockParam) and block.text)
    if not has_text:
        where = f"messages[{first}].content"
        text = f"`{where}` must have text for the answer to continue"
        raise InvalidValueError(text, param=where)


def _tool_use(request: CountTokensRequest) -> ToolUse:
    choice = request.tool_choice
    if not request.tools or isinstance(choice, ChooseNone):
        return NO_TOOLS
    tools = [
        function_tool(tool.name, tool.description, tool.input_schema, tool.strict)
        for tool in request.tools
    ]
    mode: ToolMode = "auto"
    if isinstance(choice, ChooseTool):
        mode = "named"
    elif isinstance(choice, ChooseAny):
        mode = "required"
    name = choice.name if isinstance(choice, ChooseTool) else None
    return ToolUse(mode, tools, name, not (choice and choice.disable_parallel_tool_use))


def _constraint(request: CountTokensRequest) -> Constraint | None:
    config = request.output_config
    if config is None or config.format is None:
        return None
    return schema_constraint(config.format.schema, "response_format")
