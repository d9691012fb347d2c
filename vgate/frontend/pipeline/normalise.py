"""Conversations as a chat template takes them: changed where it would refuse or drop a message.

Templates may demand the system message first or know none, demand alternating turns, or show no
tools. Which steps conversations of one shape need is found by rendering one of them, with marks
for its texts, and kept on the template. A conversation that is shown as it is has no step.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby, pairwise
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from vgate.errors import InvalidValueError
from vgate.frontend.pipeline.generation import MadeCall, Message
from vgate.frontend.text import ChatTemplate

Render = Callable[[list[Message]], str]

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_MAX_SHAPES = 256
_MARK = re.compile(r"m\d+(?:c\d+)?m")
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "f",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}

# What Hermes' and Qwen's own templates say, which many models have seen.
_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def describe_tools(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """Return a conversation with its tools in the system message, and its calls as text."""
    described = _TOOLS.format(tools="\n".join(_json(tool) for tool in tools))
    messages = _calls_as_text(messages)
    if messages and messages[0].role == "system":
        first, *messages = messages
        described = _joined([first.content, described])
    return [Message("system", described), *messages]


def render_normalised(
    template: ChatTemplate,
    messages: list[Message],
    render: Render,
    probe: Callable[[list[Message], list[dict[str, Any]]], str],
    *,
    tools: bool,
    whole: bool,
) -> str:
    """Render a conversation with the fewest changes that let the template show it.

    Args:
        template: Keeps what was found out.
        messages: The conversation.
        render: Renders messages as the request wants it.
        probe: Renders messages and tools as no request could have changed it.
        tools: Whether the template is given tools.
        whole: Whether every message must show; otherwise the template may leave some out.

    Raises:
        InvalidValueError: The template refuses all forms; says why it refused the first.
    """
    shape = (tools, whole, _shape(messages))
    steps = template.steps.get(shape)
    if steps is None:
        given = [_PROBE_TOOL] if tools else []
        steps = _needed_steps(messages, lambda tried: probe(tried, given), whole=whole)
        if len(template.steps) >= _MAX_SHAPES:
            template.steps.clear()
        template.steps[shape] = steps
    try:
        return render(_after(messages, steps))
    except InvalidValueError as error:
        if error.param != "messages":
            raise
        # Its texts, ids or arguments are what the template refuses.
        for more in ((*steps, _short_ids), _STEPS):
            changed = _after(messages, more)
            try:
                return render(changed)
            except InvalidValueError:
                continue
        raise


def _shape(messages: list[Message]) -> frozenset[tuple[str, str]]:
    """Return which kinds of messages follow each other."""
    kinds = [f"{m.role} {len(m.tool_calls[:2])}" if m.tool_calls else m.role for m in messages]
    return frozenset(pairwise(["", *kinds, ""]))


def _needed_steps(messages: list[Message], render: Render, *, whole: bool) -> tuple["_Step", ...]:
    """Return the fewest steps after which the template shows a conversation of this shape."""
    marked = [_marked(index, message) for index, message in enumerate(_short_ids(messages))]
    expected = {mark for message in marked for mark in _marks_of(message)}

    def shows(steps: Sequence[_Step], *, all_of_it: bool) -> bool:
        try:
            text = render(_after(marked, _in_order(steps)))
        except InvalidValueError:
            return False
        return not all_of_it or expected <= set(_MARK.findall(text))

    for all_of_it in (True, False) if whole else (False,):
        for count in range(len(_TRIED) + 1):
            needed = _TRIED[:count]
            if shows(needed, all_of_it=all_of_it):
                for step in needed[:-1]:
                    fewer = tuple(other for other in needed if other is not step)
                    needed = fewer if shows(fewer, all_of_it=all_of_it) else needed
                return _in_order(needed)
    return ()


def _in_order(steps: Sequence["_Step"]) -> tuple["_Step", ...]:
    return tuple(step for step in _STEPS if step in steps)


def _marked(index: int, message: Message) -> Message:
    """Return a message whose text, or whose calls' names, can be found in the rendered text."""
    if not message.tool_calls:
        return replace(message, content=f"m{index}m")
    calls = [MadeCall(c.id, f"m{index}c{n}m", {}) for n, c in enumerate(message.tool_calls)]
    return replace(message, tool_calls=calls)


def _marks_of(message: Message) -> list[str]:
    return [call.name for call in message.tool_calls] or [message.content]


def _after(messages: list[Message], steps: Sequence["_Step"]) -> list[Message]:
    for step in steps:
        messages = step(messages)
    return messages


def _short_ids(messages: list[Message]) -> list[Message]:
    """Give calls ids of 9 letters and digits, which is all that Mistral's templates take."""

    def short(id_: str) -> str:
        return hashlib.sha256(id_.encode()).hexdigest()[:9]

    return [
        replace(
            message,
            tool_calls=[replace(call, id=short(call.id)) for call in message.tool_calls],
            tool_call_id=None if message.tool_call_id is None else short(message.tool_call_id),
        )
        for message in messages
    ]


def _single_calls(messages: list[Message]) -> list[Message]:
    """Make a turn of each of several calls, followed by its results."""
    changed: list[Message] = []
    # The turns of the calls before this message, each with its results so far.
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "tool" and turns:
            ids = [turn[0].tool_calls[0].id for turn in turns]
            id_ = message.tool_call_id
            turns[ids.index(id_) if id_ in ids else -1].append(message)
            continue
        changed += chain.from_iterable(turns)
        turns = _split(message) if len(message.tool_calls) > 1 else []
        if not turns:
            changed.append(message)
    return [*changed, *chain.from_iterable(turns)]


def _split(message: Message) -> list[list[Message]]:
    first, *others = message.tool_calls
    turns = [[replace(message, tool_calls=[first])]]
    return turns + [[Message(message.role, tool_calls=[call])] for call in others]


def _calls_as_text(messages: list[Message]) -> list[Message]:
    """Write calls and their results as text, in the format that `describe_tools` asks for."""
    return [_as_text(message) for message in messages]


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [
        f"<tool_call>\n{_json({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
        for call in message.tool_calls
    ]
    texts = [message.content, *calls] if message.content else calls
    return replace(message, content="\n".join(texts), tool_calls=[])


def _known_roles(messages: list[Message]) -> list[Message]:
    """Let the user say what other roles say."""
    return [m if m.role in _ROLES else replace(m, role="user") for m in messages]


def _system_first(messages: list[Message]) -> list[Message]:
    """Merge all system messages into one, at the front."""
    system = [message for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not system:
        return messages
    return [replace(system[0], content=_joined([m.content for m in system])), *others]


def _system_in_user(messages: list[Message]) -> list[Message]:
    """Let the first user's turn begin with what the system says."""
    messages = _system_first(messages)
    if not messages or messages[0].role != "system":
        return messages
    system, *others = messages
    if not others or others[0].role != "user":
        return [Message("user", system.content), *others]
    first, *others = others
    return [replace(first, content=_joined([system.content, first.content])), *others]


def _user_first(messages: list[Message]) -> list[Message]:
    """Let an empty turn of the user precede what follows the system messages."""
    start = 0
    while start < len(messages) and messages[start].role == "system":
        start += 1
    if start < len(messages) and messages[start].role == "user":
        return messages
    return [*messages[:start], Message("user"), *messages[start:]]


def _turns_joined(messages: list[Message]) -> list[Message]:
    """Make one turn of those of the user, or of the assistant, that follow each other."""
    joined: list[Message] = []
    for role, turns in groupby(messages, key=attrgetter("role")):
        group = list(turns)
        if role in {"user", "assistant"} and len(group) > 1:
            thoughts = [turn.reasoning for turn in group if turn.reasoning is not None]
            group = [
                replace(
                    group[0],
                    content=_joined([turn.content for turn in group]),
                    reasoning="\n".join(thoughts) if thoughts else None,
                    tool_calls=[call for turn in group for call in turn.tool_calls],
                )
            ]
        joined += group
    return joined


def _joined(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_Step = Callable[[list[Message]], list[Message]]
# In the order in which they are taken. After all of them there is one turn of the user, one of the
# assistant, and so on, and nothing but text.
_STEPS: tuple[_Step, ...] = (
    _single_calls,
    _calls_as_text,
    _known_roles,
    _system_first,
    _system_in_user,
    _user_first,
    _turns_joined,
)
# In the order in which they are tried, those that change least first.
_TRIED: tuple[_Step, ...] = (
    _known_roles,
    _system_first,
    _user_first,
    _turns_joined,
    _single_calls,
    _system_in_user,
    _calls_as_text,
)
