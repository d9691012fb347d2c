"""Responses as the Responses API shows them.

The last event of a stream has the same object as the body of an answer that is not streamed; both
are made of the items here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from vgate.errors import RateLimitedError, VGateError
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result, TokenCounts
from vgate.frontend.apis.openai.logprobs import LogprobTexts, TokenLogprob
from vgate.frontend.apis.openai.responses.request import (
    FunctionTool,
    PlainFormat,
    ResponsesRequest,
)
from vgate.frontend.ids import new_id
from vgate.wire.messages import Logprobs
from vgate.wire.sampling import SamplingParams

_encode = msgspec.json.Encoder().encode

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


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
    """An item with the model's reasoning: in full, so there is no summary."""

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


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall


class CachedInputTokens(msgspec.Struct, frozen=True):
    """How the input was processed. What is put into the prefix cache isn't counted."""

    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True):
    """How many of the output's tokens are reasoning."""

    reasoning_tokens: int


class ResponsesUsage(msgspec.Struct, frozen=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: CachedInputTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int

    @classmethod
    def of(cls, counts: TokenCounts) -> ResponsesUsage:
        """Convert the counts."""
        return cls(
            counts.prompt,
            CachedInputTokens(counts.cached),
            counts.completion,
            ReasoningTokens(counts.reasoning),
            counts.prompt + counts.completion,
        )


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed. OpenAI has a closed list of codes; `type` is more precise."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str
    param: str | None
    type: str


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response. The fields after `usage` repeat the request's."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus = "in_progress"
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponsesUsage | None = None
    background: Literal[False] = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[FunctionTool]
    top_logprobs: int
    truncation: Literal["disabled"] = "disabled"
    user: str | None


def response_to(
    request: ResponsesRequest, model: str, sampling: SamplingParams, created_at: int
) -> ResponseObject:
    """Return the response to a request as it is before there is an answer.

    Args:
        request: The request, whose fields it repeats.
        model: The name that the response carries.
        sampling: The complete parameters.
        created_at: Unix time in seconds.
    """
    text_format = None if request.text is None else request.text.format
    return ResponseObject(
        id=new_item_id("resp"),
        created_at=created_at,
        model=model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        parallel_tool_calls=request.parallel_tool_calls is not False,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={"effort": request.effort, "summary": None},
        safety_identifier=request.safety_identifier,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        text={"format": text_format or PlainFormat(), "verbosity": "medium"},
        tool_choice="auto" if request.tool_choice is None else request.tool_choice,
        tools=msgspec.convert(request.tools or [], list[FunctionTool], from_attributes=True),
        top_logprobs=request.top_logprobs or 0,
        user=request.user,
    )


class ResponsesOptions(msgspec.Struct, frozen=True):
    """What a client gets to see.

    Attributes:
        response: The response without all that comes of the answer.
        clock: Returns the Unix time in seconds.
        logprobs: Writes log probabilities; None if they weren't asked for.
    """

    response: ResponseObject
    clock: Callable[[], float]
    logprobs: LogprobTexts | None = None

    def text_logprobs(self) -> TextLogprobs | None:
        """Return what finds the log probabilities of an answer's text."""
        if self.logprobs is None:
            return None
        return TextLogprobs(self.logprobs, self.response.top_logprobs)


class TextLogprobs:
    """Finds the log probabilities of a text's tokens among those of a whole answer.

    The tokens of the reasoning come first, those of tool calls last; the rest are the text's.

    Args:
        texts: Writes log probabilities.
        top: How many at each place.
    """

    def __init__(self, texts: LogprobTexts, top: int) -> None:
        self._texts = texts
        self._top = top
        self._places: list[Logprobs] = []
        self._next = 0
        self._missing_bytes = 0

    def feed(self, places: list[Logprobs]) -> None:
        """Add those of more tokens."""
        self._places += places

    def take(self, text: str, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of the tokens that more text is made of."""
        self._next = max(self._next, reasoning_tokens)
        self._missing_bytes += len(text.encode())
        taken: list[TokenLogprob] = []
        while self._missing_bytes > 0 and self._next < len(self._places):
            token = self._written(self._places[self._next : self._next + 1])
            self._next += 1
            self._missing_bytes -= len(token[0].bytes)
            taken += token
        return taken

    def rest(self, reasoning_tokens: int) -> list[TokenLogprob]:
        """Return those of all later tokens: without tool calls they belong to the text."""
        return self._written(self._places[max(self._next, reasoning_tokens) :])

    def _written(self, places: list[Logprobs]) -> list[TokenLogprob]:
        return self._texts.chat(places, self._top).content


def output_of(
    choice: ChoiceResult, reasoning_tokens: int, logprobs: TextLogprobs | None
) -> list[OutputItem]:
    """Return the items of an answer; the last one is incomplete if the answer is."""
    output: list[OutputItem] = []
    if choice.reasoning:
        content = [ReasoningText(choice.reasoning)]
        output.append(OutputReasoning(new_item_id("rs"), "completed", content))
    if choice.text or not (choice.reasoning or choice.tool_calls):
        shown: list[TokenLogprob] = []
        if logprobs is not None:
            logprobs.feed(choice.logprobs or [])
            shown = logprobs.take(choice.text, reasoning_tokens)
            if not choice.tool_calls:
                shown += logprobs.rest(reasoning_tokens)
        text = OutputText(choice.text, shown)
        output.append(OutputMessage(new_item_id("msg"), "completed", [text]))
    output += [
        OutputFunctionCall(new_item_id("fc"), "completed", call.id, call.name, call.arguments)
        for call in choice.tool_calls
    ]
    if choice.finish_reason == "length":
        output[-1] = msgspec.structs.replace(output[-1], status="incomplete")
    return output


def whole_response(answer: Result, options: ResponsesOptions) -> bytes:
    """Return the body of an answer that is not streamed."""
    choice, counts = answer.choices[0], answer.counts
    output = output_of(choice, counts.reasoning, options.text_logprobs())
    return _encode(ended_response(options, output, counts, choice.finish_reason))


def ended_response(
    options: ResponsesOptions,
    output: list[OutputItem],
    counts: TokenCounts,
    finish_reason: FinishReason,
) -> ResponseObject:
    """Return the response as it is at its end."""
    cut = finish_reason == "length"
    return msgspec.structs.replace(
        options.response,
        completed_at=None if cut else int(options.clock()),
        status="incomplete" if cut else "completed",
        incomplete_details=IncompleteDetails() if cut else None,
        output=output,
        usage=ResponsesUsage.of(counts),
    )


def failed_response(
    response: ResponseObject, output: list[OutputItem], error: VGateError
) -> ResponseObject:
    """Return the response as it is when it breaks."""
    code: Any = "rate_limit_exceeded" if isinstance(error, RateLimitedError) else "server_error"
    shown = ResponseError(code, error.message, error.param, error.type)
    return msgspec.structs.replace(response, status="failed", output=output, error=shown)


def new_item_id(kind: str) -> str:
    """Return a new id of a response or an item."""
    return new_id(f"{kind}_")
