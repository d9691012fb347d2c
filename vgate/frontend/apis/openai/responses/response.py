"""The response object of the Responses API, and the items of its output.

A stream's last event carries the same object as a non-streaming response.
"""

from typing import Any, Literal, Self

import msgspec
from msgspec import UNSET, UnsetType

from vgate.frontend.answers import ChoiceResult, TokenCounts
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.apis.openai.logprobs import LogprobTexts, TokenLogprob
from vgate.frontend.apis.openai.responses.request import (
    PlainFormat,
    ResponsesRequest,
)
from vgate.frontend.apis.openai.responses.tools import CustomTool, FunctionTool, Tool
from vgate.frontend.apis.openai.tools import custom_input
from vgate.frontend.http import encode_text
from vgate.frontend.ids import new_id
from vgate.wire.logprobs import Logprobs
from vgate.wire.parameters import SamplingParams

_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})

# The fields of a response that repeat what may be long.
_LONG = (
    *("instructions", "metadata", "prompt_cache_key", "safety_identifier"),
    *("text", "tool_choice", "tools", "user"),
)
# A text of fewer characters is encoded with what is around it.
_LONG_TEXT = 65_536
_MOST_BYTES = 2 * 1024 * 1024

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, frozen=True):
    """The text of a message."""

    text: str
    logprobs: list[TokenLogprob] = []
    annotations: list[Any] = []
    type: Literal["output_text"] = "output_text"


class OutputMessage(msgspec.Struct, frozen=True):
    """An item with the model's text."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"
    type: Literal["message"] = "message"


class ReasoningText(msgspec.Struct, frozen=True):
    """The text of reasoning."""

    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class OutputReasoning(msgspec.Struct, frozen=True):
    """An item with the model's complete reasoning, so there is no summary."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[Any] = []
    encrypted_content: None = None
    type: Literal["reasoning"] = "reasoning"


class OutputFunctionCall(msgspec.Struct, frozen=True):
    """An item with a tool call; `arguments` is JSON text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"] = "function_call"
    namespace: str | UnsetType = UNSET


class OutputCustomCall(msgspec.Struct, frozen=True):
    """An item with a call of a custom tool."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str
    type: Literal["custom_tool_call"] = "custom_tool_call"
    namespace: str | UnsetType = UNSET


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall | OutputCustomCall


class ResponsesUsage(msgspec.Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int

    @classmethod
    def of(cls, counts: TokenCounts) -> Self:
        """Convert the counts."""
        return cls(
            counts.prompt,
            # What the prefix cache stores is not counted.
            {"cached_tokens": counts.cached, "cache_write_tokens": 0},
            counts.completion,
            {"reasoning_tokens": counts.reasoning},
            counts.prompt + counts.completion,
        )


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response. The fields after `usage` repeat the request's."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: dict[str, str | None] | None = None
    incomplete_details: dict[str, str] | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponsesUsage | None = None
    background: Literal[False] = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None = None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[FunctionTool | CustomTool]
    top_logprobs: int
    truncation: Literal["disabled"] = "disabled"
    user: str | None


def response_to(
    request: ResponsesRequest, model: str, sampling: SamplingParams, created_at: int
) -> ResponseObject:
    """Return the response before it has an answer; `sampling` is complete, the time in seconds."""
    text_format = None if request.text is None else request.text.format
    return ResponseObject(
        id=new_id("resp_"),
        created_at=created_at,
        model=model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={"effort": _known_effort(request.effort), "summary": None},
        safety_identifier=request.safety_identifier,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        text={"format": text_format or PlainFormat(), "verbosity": "medium"},
        tool_choice="auto" if request.tool_choice is None else request.tool_choice,
        tools=[_repeated(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        user=request.user,
    )


def encoded_once(response: ResponseObject) -> ResponseObject:
    """Return a response with the request's fields as JSON, as three events of a stream repeat them.

    To encode 8 MB of line breaks takes 45 ms.

    Raises:
        InvalidValueError: They have more than `_MOST_BYTES`, which would take long to copy.
    """
    fields = {}
    for name in _LONG:
        value = _with_texts_encoded(msgspec.to_builtins(getattr(response, name)))
        fields[name] = msgspec.json.encode(value)
    if sum(map(len, fields.values())) > _MOST_BYTES:
        problem = f"is too large: what a response repeats has at most {_MOST_BYTES} bytes of JSON"
        raise invalid(max(fields, key=lambda name: len(fields[name])), problem)
    raw = {name: msgspec.Raw(value) for name, value in fields.items()}
    return msgspec.structs.replace(response, **raw)


def _with_texts_encoded(value: Any) -> Any:
    """Return builtin types, in which long texts are JSON; other threads may run in between."""
    if isinstance(value, str):
        return msgspec.Raw(encode_text(value)) if len(value) > _LONG_TEXT else value
    if isinstance(value, dict):
        return {name: _with_texts_encoded(inner) for name, inner in value.items()}
    return [*map(_with_texts_encoded, value)] if isinstance(value, list) else value


def _known_effort(effort: str | None) -> str | None:
    """Return an effort that OpenAI's clients know; None for a model's own."""
    return effort if effort in _EFFORTS else None


def _repeated(tool: Any) -> FunctionTool | CustomTool:
    """Return a request's tool as its response repeats it."""
    if isinstance(tool, CustomTool):
        return tool
    return FunctionTool(**{name: getattr(tool, name) for name in FunctionTool.__struct_fields__})


def call_item(
    tools: dict[str, Tool], status: ItemStatus, call: tuple[str, str, str], id_: str = ""
) -> OutputFunctionCall | OutputCustomCall:
    """Return the item of a call: of its id, the served name of its tool, and its arguments.

    `tools` has the request's tools by their served names.
    """
    call_id, served_name, arguments = call
    tool = tools.get(served_name)
    name, namespace = (tool.name, tool.namespace) if tool else (served_name, UNSET)
    if isinstance(tool, CustomTool):
        text = custom_input(arguments) if arguments else ""
        item_id = id_ or new_id("ctc_")
        return OutputCustomCall(item_id, status, call_id, name, text, namespace=namespace)
    item_id = id_ or new_id("fc_")
    return OutputFunctionCall(item_id, status, call_id, name, arguments, namespace=namespace)


class TextLogprobs:
    """Finds the log probabilities of an answer's text among those of all its tokens.

    Reasoning tokens come first and those of tool calls last, where there are any of them; the rest
    are the text's.
    """

    def __init__(self, texts: LogprobTexts) -> None:
        self._texts = texts
        self._positions: list[Logprobs] = []
        self._next = 0
        self._missing_bytes = 0

    def feed(self, positions: list[Logprobs]) -> None:
        """Add those of more tokens of the answer."""
        self._positions += positions

    def take(self, text: str, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of the tokens that the next part of the text consists of."""
        self._next = max(self._next, self._first(reasoning_tokens))
        self._missing_bytes += len(text.encode())
        taken: list[TokenLogprob] = []
        while self._missing_bytes > 0 and self._next < len(self._positions):
            (token,) = self._texts.chat([self._positions[self._next]]).content
            self._next += 1
            self._missing_bytes -= len(token.bytes)
            taken.append(token)
        return taken

    def rest(self, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of all later tokens; without tool calls they belong to the text."""
        positions = self._positions[max(self._next, self._first(reasoning_tokens)) :]
        return self._texts.chat(positions).content

    def _first(self, reasoning_tokens: int) -> int:
        return 0 if self._texts.of_content else reasoning_tokens


def output_of(
    choice: ChoiceResult,
    reasoning_tokens: int,
    logprobs: TextLogprobs | None,
    tools: dict[str, Tool],
) -> list[OutputItem]:
    """Return the items of an answer; the last one is incomplete if the answer is."""
    output: list[OutputItem] = []
    if choice.reasoning:
        content = [ReasoningText(choice.reasoning)]
        output.append(OutputReasoning(new_id("rs_"), "completed", content))
    if choice.text or not (choice.reasoning or choice.tool_calls):
        tokens: list[TokenLogprob] = []
        if logprobs is not None:
            logprobs.feed(choice.logprobs or [])
            tokens = logprobs.take(choice.text, reasoning_tokens)
            if not choice.tool_calls:
                tokens += logprobs.rest(reasoning_tokens)
        text = OutputText(choice.text, tokens)
        output.append(OutputMessage(new_id("msg_"), "completed", [text]))
    output += [
        call_item(tools, "completed", (call.id, call.name, call.arguments))
        for call in choice.tool_calls
    ]
    if choice.finish_reason == "length":
        output[-1] = msgspec.structs.replace(output[-1], status="incomplete")
    return output
