"""Translates a Messages request into a generation."""

import re
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from vgate.frontend.apis.anthropic.messages.request import (
    BlockParam,
    ChooseAny,
    ChooseNone,
    ChooseTool,
    CountTokensRequest,
    MessagesRequest,
    TextBlockParam,
    ThinkingBlockParam,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from vgate.frontend.apis.fields import FieldMap
from vgate.frontend.apis.shared import check_template_kwargs, function_tool, own_kwargs
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import (
    NO_TOOLS,
    Conversation,
    Generation,
    MadeCall,
    Message,
    ToolMode,
    ToolUse,
    schema_constraint,
)
from vgate.wire.parameters import SamplingParams

# The names of a generation's fields in a Messages request.
FIELDS = FieldMap(
    {
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "tools[].function": "tools[]",
        "tools[].function.parameters": "tools[].input_schema",
    }
)

# The effort of Anthropic's API by default.
DEFAULT_EFFORT = "high"
# A budget sets no bound here; it only chooses the effort.
_EFFORT_BELOW = ((4096, "low"), (16_384, "medium"))

# A conversation has no flag for a tool that failed, so the text says so.
ERROR_PREFIX = "Error: "

_Content = str | Sequence[BlockParam]

_BILLING = re.compile(r"^x-anthropic-billing-header:.*(?:\n|$)", re.MULTILINE)


def generation_of(
    request: CountTokensRequest, effort: str | None = None, ignored: Ignored | None = None
) -> Generation:
    """Return the generation that a checked request asks for, with this reasoning effort.

    `ignored` gets the variables for the template that are fields of requests.

    Raises:
        InvalidValueError: The answer can't continue the conversation, or a schema is too large.
    """
    continues = _is_unfinished(request)
    check_template_kwargs(request.chat_template_kwargs, ignored or Ignored())
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
    output = request.output_config and request.output_config.format
    schema = output.schema if output else None
    return Generation(
        model=request.model,
        prompt=Conversation(
            messages=_messages_of(request),
            reasoning_effort=effort,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            template_kwargs=own_kwargs(request.chat_template_kwargs),
        ),
        sampling=sampling,
        stops=stops,
        tools=_tool_use(request),
        constraint=None if schema is None else schema_constraint(schema, "response_format"),
        show_reasoning=getattr(request.thinking, "display", None) != "omitted",
    )


def reasoning_effort(
    request: CountTokensRequest,
    ignored: Ignored,
    *,
    adjustable: bool,
    reasons: bool,
    always_reasons: bool = False,
) -> str | None:
    """Return the reasoning effort that a request asks for; None for the model's default.

    Args:
        request: The request.
        ignored: Gets what the model can't follow.
        adjustable: Whether the model's chat template can set the effort.
        reasons: Whether the model writes reasoning.
        always_reasons: Whether it does so at every effort; without thinking it has the lowest.
    """
    thinking = request.thinking
    effort = request.output_config.effort if request.output_config else None
    if isinstance(thinking, ThinkingDisabled):
        if reasons and (always_reasons or not adjustable):
            ignored.add("thinking")
        if not adjustable:
            return None
        return "low" if always_reasons else "none"
    if adjustable:
        if isinstance(thinking, ThinkingEnabled) and effort is None:
            budget = thinking.budget_tokens
            return next((name for below, name in _EFFORT_BELOW if budget < below), "high")
        return effort
    if isinstance(thinking, ThinkingEnabled) and not reasons:
        ignored.add("thinking")
    if effort not in {None, DEFAULT_EFFORT}:
        ignored.add("output_config.effort")
    return None


def _messages_of(request: CountTokensRequest) -> list[Message]:
    """Return the conversation; consecutive messages of one role become one turn."""
    system = _without_billing(request.system or "")
    contents: list[tuple[str, _Content]] = [("system", system)] if system else []
    contents += [(message.role, message.content) for message in request.messages]
    messages: list[Message] = []
    for role, turn in groupby(contents, key=itemgetter(0)):
        blocks = [block for _, content in turn for block in _blocks_of(content)]
        messages += _assistant_turn(blocks) if role == "assistant" else _other_turn(role, blocks)
    return messages


def _without_billing(system: str | list[TextBlockParam]) -> str | list[TextBlockParam]:
    """Return a system prompt without Claude Code's line for Anthropic's billing.

    It changes with every request, so no prompt would begin as an earlier one.
    """
    if isinstance(system, str):
        return _BILLING.sub("", system)
    texts = [_BILLING.sub("", block.text) for block in system]
    kept = zip(texts, system, strict=True)
    return [TextBlockParam(text=text) for text, block in kept if text or not block.text]


def _blocks_of(content: _Content) -> Sequence[BlockParam]:
    return [TextBlockParam(text=content)] if isinstance(content, str) else content


def _text_of(blocks: Sequence[BlockParam]) -> str:
    return "\n".join(block.text for block in blocks if isinstance(block, TextBlockParam))


def _assistant_turn(blocks: list[BlockParam]) -> list[Message]:
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlockParam)]
    calls = [
        MadeCall(block.id or "", block.name, block.input or {})
        for block in blocks
        if isinstance(block, ToolUseBlockParam)
    ]
    reasoning = "\n".join(thoughts) if thoughts else None
    return [Message("assistant", _text_of(blocks), reasoning, calls)]


def _other_turn(role: str, blocks: list[BlockParam]) -> list[Message]:
    """Return one message for each tool result, then one for the turn's text."""
    turn = [_tool_message(block) for block in blocks if isinstance(block, ToolResultBlockParam)]
    if len(turn) < len(blocks) or not blocks:
        turn.append(Message("system" if role == "system" else "user", _text_of(blocks)))
    return turn


def _tool_message(result: ToolResultBlockParam) -> Message:
    text = _text_of(_blocks_of(result.content or ""))
    text = ERROR_PREFIX + text if result.is_error else text
    return Message("tool", text, tool_call_id=result.tool_use_id)


def _is_unfinished(request: CountTokensRequest) -> bool:
    """Whether the answer continues the assistant's turn at the end: it has text and no call."""
    has_text = False
    for message in reversed(request.messages):
        if message.role != "assistant":
            break
        for block in _blocks_of(message.content):
            if isinstance(block, ToolUseBlockParam):
                return False
            has_text = has_text or bool(isinstance(block, TextBlockParam) and block.text)
    return has_text


def _tool_use(request: CountTokensRequest) -> ToolUse:
    choice = request.tool_choice
    if not request.tools or isinstance(choice, ChooseNone):
        return NO_TOOLS
    tools = [
        function_tool(tool.name, tool.description, tool.input_schema, tool.strict)
        for tool in request.tools
    ]
    parallel = not (choice and choice.disable_parallel_tool_use)
    if isinstance(choice, ChooseTool):
        return ToolUse("named", tools, choice.name, parallel)
    mode: ToolMode = "required" if isinstance(choice, ChooseAny) else "auto"
    return ToolUse(mode, tools, parallel=parallel)
